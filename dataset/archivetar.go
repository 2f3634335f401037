package dataset

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/sptune/spt/internal/atomicfile"
	"github.com/sptune/spt/internal/regularfile"
)

// tarBlock is the size of a block of a tar archive, in bytes.
const tarBlock = 512

// listTar lists the files of a tar archive. It reads the headers alone.
func (x *index) listTar(ctx context.Context, r io.ReaderAt) error {
	section := io.NewSectionReader(r, 0, x.size)
	headers := tar.NewReader(section)
	end, last := int64(0), "" // end of the last file, and its name
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := headers.Next()
		if errors.Is(err, io.EOF) && end+tarBlock > x.size {
			return fmt.Errorf("it ends without an end marker%s: it is cut short or still being written; copy it again, or, if it is complete, append two blocks of zeros with 'truncate --size=+1024'", after(last))
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("it ends in the header%s: it is cut short or still being written; copy it again", after(last))
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) { // archivePath checks the path
			return fmt.Errorf("the header at byte %d%s is not the header of a tar archive: it is damaged or another kind of file: %w", end, after(last), err)
		}
		offset, err := section.Seek(0, io.SeekCurrent)
		if err != nil {
			return err
		}
		if err := x.addTar(h, offset); err != nil {
			return err
		}
		if h.Typeflag == tar.TypeReg {
			end, last = offset+(h.Size+tarBlock-1)/tarBlock*tarBlock, h.Name
		} else {
			end = offset
		}
	}
}

// after returns a part of an error: the file after which something is wrong.
func after(last string) string {
	if last == "" {
		return ""
	}
	return fmt.Sprintf(" after the file %q", abbreviate(last))
}

// addTar adds the entry of a header, whose contents are at offset.
func (x *index) addTar(h *tar.Header, offset int64) error {
	switch h.Typeflag {
	case tar.TypeDir:
		_, err := x.add(h.Name, true)
		return err
	case tar.TypeXGlobalHeader:
		return nil
	case tar.TypeReg, tar.TypeLink:
	case tar.TypeGNUSparse:
		return sparseError(h.Name)
	default:
		x.links = append(x.links, h.Name)
		return nil
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return sparseError(h.Name)
		}
	}
	if h.Typeflag == tar.TypeReg && h.Size > x.size-offset {
		return fmt.Errorf("the file %q has %d bytes, of which %d are missing at the end of the archive: it is cut short or still being written; copy it again", abbreviate(h.Name), h.Size, h.Size-(x.size-offset))
	}
	m, err := x.add(h.Name, false)
	if err != nil || m == nil {
		return err
	}
	if h.Typeflag == tar.TypeReg {
		m.offset, m.size, m.packed = offset, h.Size, h.Size
		return nil
	}
	// A hard link is another name of an earlier file.
	clean, err := archivePath(h.Linkname)
	if err != nil {
		return err
	}
	target := x.known[clean]
	if target == nil || target.folder || target == m {
		return fmt.Errorf("%q is a link to %q, which is not an earlier file of the archive: pack the archive again with both files", abbreviate(h.Name), abbreviate(h.Linkname))
	}
	m.offset, m.size, m.packed = target.offset, target.size, target.packed
	return nil
}

func sparseError(name string) error {
	return fmt.Errorf("the file %q is stored as a sparse file, which is not supported: pack the archive again without --sparse", abbreviate(name))
}

// compressions lists the compressions of tar archives by the first bytes of a file. open is nil for
// a compression that is not supported.
var compressions = []struct {
	name, magic string
	open        func(io.Reader) (io.Reader, func(), error)
}{
	{"gzip", "\x1f\x8b", func(r io.Reader) (io.Reader, func(), error) {
		z, err := gzip.NewReader(r)
		return z, func() {}, err
	}},
	{"zstd", "\x28\xb5\x2f\xfd", func(r io.Reader) (io.Reader, func(), error) {
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	}},
	{"bzip2", "BZh", nil},
	{"xz", "\xfd7zXZ\x00", nil},
}

// decompressed returns the path of a tar archive without compression: the path itself or, for a
// compressed archive, a file in the cache of the user. The file is written once: its name is the
// hash of the size, the time, and the first and the last bytes of the archive. The last bytes hold
// a checksum of the contents. Decompression needs a constant amount of memory.
func decompressed(ctx context.Context, path string) (string, error) {
	const sampled = 64 << 10
	f, size, err := regularfile.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	head := make([]byte, min(sampled, size))
	if _, err := io.ReadFull(f, head); err != nil {
		return "", err
	}
	for _, c := range compressions {
		if !bytes.HasPrefix(head, []byte(c.magic)) {
			continue
		}
		if c.open == nil {
			return "", fmt.Errorf("it is compressed with %s, which is not supported: decompress it to a .tar file, or unpack it", c.name)
		}
		tail := make([]byte, len(head))
		if _, err := f.ReadAt(tail, size-int64(len(tail))); err != nil {
			return "", err
		}
		info, err := f.Stat()
		if err != nil {
			return "", err
		}
		key := sha256.New()
		fmt.Fprintf(key, "%d %d\n", size, info.ModTime().UnixNano())
		key.Write(head)
		key.Write(tail)
		cache, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("it is compressed, and there is no folder to decompress it to: %w; decompress it to a .tar file", err)
		}
		to := filepath.Join(cache, "spt", "archives", hex.EncodeToString(key.Sum(nil)[:16])+".tar")
		if info, err := os.Stat(to); err == nil && info.Mode().IsRegular() {
			return to, nil
		}
		if err := os.MkdirAll(filepath.Dir(to), 0o777); err != nil {
			return "", fmt.Errorf("decompressing it to the cache: %w; set XDG_CACHE_HOME to a folder that you may write, or decompress it to a .tar file", err)
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return "", err
		}
		limit := minUnpacked + 100*size
		err = atomicfile.Write(to, func(w io.Writer) error {
			return decompressTo(contextReader{ctx, f}, w, c.open, limit)
		})
		switch {
		case ctx.Err() != nil:
			return "", ctx.Err()
		case errors.Is(err, io.ErrUnexpectedEOF):
			return "", errors.New("its compressed data end early: it is cut short or still being written; copy it again")
		case err != nil:
			return "", fmt.Errorf("decompressing it to %s: %w", to, err)
		}
		return to, nil
	}
	return path, nil
}

// decompressTo writes the decompressed bytes of r to w, at most limit.
func decompressTo(r io.Reader, w io.Writer, open func(io.Reader) (io.Reader, func(), error), limit int64) error {
	z, done, err := open(r)
	if err != nil {
		return err
	}
	defer done()
	n, err := io.Copy(w, io.LimitReader(z, limit+1))
	if err == nil && n > limit {
		return fmt.Errorf("it has more than %d bytes decompressed, the limit for its size: decompress it to a .tar file if you trust it", limit)
	}
	return err
}
