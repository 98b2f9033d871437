package name

import _ "unsafe"
