package dataset

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/sptune/spt/internal/atomicfile"
	"github.com/sptune/spt/internal/regularfile"
)

// hashes holds the hashes of the images of a data set, and whether images that look alike are
// nearly equal. A file in the cache of the user keeps them. So OpenOptions.GroupDuplicates decodes
// an image only once, as long as the file of the image does not change.
type hashes struct {
	path   string // path of the file; "" if there is no cache
	root   string // Dataset.Root
	images map[string]imageHash
	pairs  map[imagePair]bool   // whether two images are nearly equal
	states map[string]fileState // of the files that hold images
}

// fileState is what a change of a file changes. It is zero for a file that cannot be read.
type fileState struct {
	size     int64 // bytes
	modified int64 // nanoseconds since 1970
}

// imageHash holds the hashes of an image, and the state of its file when they were computed.
type imageHash struct {
	fileState
	look   look
	pixels [sha256.Size]byte
}

// imagePair names two images by the beginnings of the hashes of their pixels, the smaller one
// first.
type imagePair [2]uint64

func pairOf(a, b [sha256.Size]byte) imagePair {
	x, y := binary.LittleEndian.Uint64(a[:]), binary.LittleEndian.Uint64(b[:])
	return imagePair{min(x, y), max(x, y)}
}

// loadHashes reads the hashes of the data set at root. It returns no hashes if there are none, and
// if the file is damaged.
func loadHashes(root string) *hashes {
	h := &hashes{root: root, images: map[string]imageHash{}, pairs: map[imagePair]bool{}, states: map[string]fileState{}}
	cache, err := os.UserCacheDir()
	if err != nil || root == "" {
		return h
	}
	name := sha256.Sum256([]byte(root))
	h.path = filepath.Join(cache, "spt", "hashes", hex.EncodeToString(name[:16]))
	if data, err := regularfile.Read(h.path, maxHashes); err == nil {
		if images, pairs, err := decodeHashes(data); err == nil {
			h.images, h.pairs = images, pairs
		}
	}
	return h
}

// state returns the state of the file that holds the image of a sample.
func (h *hashes) state(s Sample) (state fileState) {
	path := s.source().file()
	state, ok := h.states[path]
	if !ok {
		if info, err := os.Stat(path); err == nil {
			state = fileState{info.Size(), info.ModTime().UnixNano()}
		}
		h.states[path] = state
	}
	return state
}

// find returns the hashes of the samples that are known. The others are zero, and missing lists
// their indices.
func (h *hashes) find(samples []Sample) (known []imageHash, missing []int) {
	known = make([]imageHash, len(samples))
	for i, s := range samples {
		known[i].fileState = h.state(s)
		if found, ok := h.images[relative(h.root, s.Path)]; ok && found.fileState == known[i].fileState {
			known[i] = found
		} else {
			missing = append(missing, i)
		}
	}
	return known, missing
}

// racy is the time for which a file that has just changed may change again without another time of
// change. Some file systems count in seconds.
const racy = 2 * time.Second

// save replaces the file by the hashes of the samples. It leaves out images whose files have just
// changed.
func (h *hashes) save(samples []Sample, known []imageHash) error {
	if h.path == "" {
		return nil
	}
	images, latest := make(map[string]imageHash, len(samples)), time.Now().Add(-racy).UnixNano()
	for i, s := range samples {
		if m := known[i]; m.pixels != [sha256.Size]byte{} && m.fileState != (fileState{}) && m.modified < latest {
			images[relative(h.root, s.Path)] = m
		}
	}
	err := os.MkdirAll(filepath.Dir(h.path), 0o777)
	if err == nil {
		err = atomicfile.WriteBytes(h.path, encodeHashes(images, h.pairs))
	}
	if err != nil {
		return fmt.Errorf("keeping the hashes of the images in the cache: %w", err)
	}
	return nil
}

const (
	// hashesMagic begins a file of hashes. The number changes if the hashes of an image change.
	hashesMagic = "spt hashes 1\n"
	// maxHashes limits the size of a file of hashes, in bytes. An image takes about 80 bytes, and a
	// pair 17.
	maxHashes = 1 << 30
)

// encodeHashes returns the content of a file of hashes: hashesMagic, the number of images, the
// images, the number of pairs, the pairs, and the SHA-256 of all bytes before it. Numbers have 64
// bits and are little-endian. Images are sorted by name and pairs by their numbers.
func encodeHashes(images map[string]imageHash, pairs map[imagePair]bool) []byte {
	b := []byte(hashesMagic)
	number := func(v uint64) { b = binary.LittleEndian.AppendUint64(b, v) }
	number(uint64(len(images)))
	for _, name := range slices.Sorted(maps.Keys(images)) {
		m := images[name]
		number(uint64(len(name)))
		b = append(b, name...)
		number(uint64(m.size))
		number(uint64(m.modified))
		number(uint64(m.look))
		b = append(b, m.pixels[:]...)
	}
	number(uint64(len(pairs)))
	for _, p := range slices.SortedFunc(maps.Keys(pairs), func(a, b imagePair) int { return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(a[1], b[1])) }) {
		number(p[0])
		number(p[1])
		near := byte(0)
		if pairs[p] {
			near = 1
		}
		b = append(b, near)
	}
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

// errHashes is the error for a damaged file of hashes.
var errHashes = errors.New("it is no file of hashes, or damaged")

// decodeHashes decodes the content of a file of hashes.
func decodeHashes(data []byte) (images map[string]imageHash, pairs map[imagePair]bool, err error) {
	end := len(data) - sha256.Size
	if end < 0 {
		return nil, nil, errHashes
	}
	sum := sha256.Sum256(data[:end])
	rest, ok := bytes.CutPrefix(data[:end], []byte(hashesMagic))
	if !ok || !bytes.Equal(sum[:], data[end:]) {
		return nil, nil, errHashes
	}
	r := bytes.NewReader(rest)
	number := func() (v uint64) {
		if e := binary.Read(r, binary.LittleEndian, &v); e != nil && err == nil {
			err = errHashes
		}
		return v
	}
	images, pairs = map[string]imageHash{}, map[imagePair]bool{}
	for n := number(); n > 0 && err == nil; n-- {
		length := number()
		if length > uint64(r.Len()) {
			return nil, nil, errHashes
		}
		name := make([]byte, length)
		_, _ = io.ReadFull(r, name) // the bytes are there
		m := imageHash{fileState: fileState{int64(number()), int64(number())}, look: look(number())}
		if _, e := io.ReadFull(r, m.pixels[:]); e != nil {
			return nil, nil, errHashes
		}
		images[string(name)] = m
	}
	for n := number(); n > 0 && err == nil; n-- {
		p := imagePair{number(), number()}
		near, e := r.ReadByte()
		if e != nil {
			return nil, nil, errHashes
		}
		pairs[p] = near == 1
	}
	if err == nil && r.Len() > 0 {
		err = errHashes
	}
	return images, pairs, err
}
