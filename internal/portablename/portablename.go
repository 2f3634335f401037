// Package portablename knows the names of files that Windows cannot have. [IsDevice] is its only
// function.
package portablename

import "regexp"

// device matches the names of devices. A file on Windows cannot have such a name, also with an
// extension.
var device = regexp.MustCompile(`(?i)^(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$) *(\..*)?$`)

// IsDevice reports whether Windows takes a file of this name for a device, such as "NUL" or
// "aux.txt".
func IsDevice(name string) bool { return device.MatchString(name) }
