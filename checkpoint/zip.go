package checkpoint

import (
	"archive/zip"
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// archive is an open zip archive, as PyTorch and NumPy write it. It is never unpacked to disk, so
// the names of its members are not used as paths.
type archive struct {
	file    string
	names   []string // in the order of the directory of the archive
	members map[string]blob
}

// openArchive opens the zip archive of size bytes in r and checks its directory. It returns an
// error if two members have the same name, if a member overlaps another or reaches beyond the file,
// or if the compressed members become more than 16 times as large as the file.
//
// torch.save and numpy.savez do not compress members. numpy.savez_compressed does, but weights
// hardly become smaller. The limit is needed because one compressed byte of a hostile file can
// become a thousand bytes.
func openArchive(r io.ReaderAt, size int64, file string) (*archive, error) {
	fail := func(at int64, format string, args ...any) error {
		return &FormatError{File: file, Offset: at, Err: fmt.Errorf(format, args...)}
	}
	z, err := zip.NewReader(r, size)
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) { // names are not used as paths
		return nil, fail(size, "the file begins as a zip archive, but the directory at its end cannot be read: %w; the file is cut short or damaged; download or copy it again", err)
	}
	a := &archive{file: file, members: make(map[string]blob, len(z.File))}
	var all []blob
	inflated, most := uint64(0), 1<<20+16*uint64(size) // bytes
	for _, m := range z.File {
		if strings.HasSuffix(m.Name, "/") && m.UncompressedSize64 == 0 {
			continue
		}
		at, err := m.DataOffset()
		if err != nil || at < 0 || at > size {
			return nil, fail(size, "member %.100q of the zip archive has no header at the place that the directory states; the file is damaged; download or copy it again", m.Name)
		}
		switch {
		case m.Flags&1 != 0:
			return nil, fail(at, "member %.100q of the zip archive is encrypted; decrypt the file first", m.Name)
		case m.Method != zip.Store && m.Method != zip.Deflate:
			return nil, fail(at, "member %.100q of the zip archive is compressed with method %d; expected 0 (stored) or 8 (deflated)", m.Name, m.Method)
		case m.CompressedSize64 > uint64(size-at):
			return nil, fail(at, "member %.100q of the zip archive has %d bytes from byte %d on, but the file has %d bytes; the file is cut short or damaged; download or copy it again", m.Name, m.CompressedSize64, at, size)
		case m.Method == zip.Store && m.UncompressedSize64 != m.CompressedSize64:
			return nil, fail(at, "member %.100q of the zip archive is stored in %d bytes, but the directory states %d bytes; the file is damaged", m.Name, m.CompressedSize64, m.UncompressedSize64)
		}
		if _, twice := a.members[m.Name]; twice {
			return nil, fail(at, "the zip archive has two members called %.100q, so another program might read a different one; save the file again", m.Name)
		}
		b := blob{r: r, begin: at, size: int64(m.UncompressedSize64), member: m}
		if m.Method == zip.Deflate {
			if m.UncompressedSize64 > most-inflated {
				return nil, fail(at, "the compressed members of the zip archive up to %.100q become larger than %d bytes when they are decompressed; the limit is 1 MiB plus 16 times the size of the file; save the file without compression", m.Name, most)
			}
			inflated += m.UncompressedSize64
		}
		a.names = append(a.names, m.Name)
		a.members[m.Name] = b
		if m.CompressedSize64 > 0 {
			all = append(all, b)
		}
	}
	slices.SortFunc(all, func(a, b blob) int { return cmp.Compare(a.begin, b.begin) })
	end := int64(math.MinInt64)
	for _, b := range all {
		if b.begin < end {
			return nil, fail(b.begin, "member %.100q of the zip archive begins inside the member before it; the file is damaged", b.member.Name)
		}
		end = b.begin + int64(b.member.CompressedSize64)
	}
	return a, nil
}
