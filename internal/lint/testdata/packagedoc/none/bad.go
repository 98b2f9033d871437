package none // want
