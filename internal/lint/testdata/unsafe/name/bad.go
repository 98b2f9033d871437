// Package name uses unsafe where it may, in a file that does not say so.
//
//lint:room internal/sys
package name

import _ "unsafe" // want
