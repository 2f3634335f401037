//go:build !amd64 && !arm64

// This file has no code. stubs.go declares functions whose bodies exist for amd64 or arm64 only. The compiler
// accepts such declarations if the package has an assembly file. On other processors nothing calls
// these functions, because level is a constant.
