module spindle

go 1.26
