//go:build !amd64

package vector

// level is constant here, so the calls of assembly are never compiled.
const level = portable
