//go:build !amd64

package vector

// level is the instruction set in use. It is a constant, so the compiler omits the calls of
// assembly.
const level = portable
