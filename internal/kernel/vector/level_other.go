//go:build !amd64

package vector

// level is constant here, so the calls of assembly are not compiled.
const level = portable
