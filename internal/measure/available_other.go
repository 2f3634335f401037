//go:build !linux && !darwin && !windows

package measure

func available() (int64, bool) { return 0, false }
