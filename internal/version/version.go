// Package version holds the version of the library and of the command spt. Run folders and results
// record it.
package version

// Version is the version of this library and of the command spt.
const Version = "0.1.0"
