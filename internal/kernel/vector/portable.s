//go:build !amd64

// Empty: with an assembly file in the package, the compiler accepts the
// declarations of stubs.go, whose bodies exist for amd64 only. Elsewhere
// nothing refers to them, for level is a constant.
