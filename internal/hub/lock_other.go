//go:build !unix

package hub

import "context"

// lock does nothing where there is no flock: two processes that download the
// same file at once may spoil each other's download, which the checksum finds.
func lock(context.Context, string) (unlock func(), err error) { return func() {}, nil }
