// The race detector multiplies the memory of a process.

//go:build !race

package dataset

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// bitWriter writes numbers of some bits, the lowest bit first, as VP8L does.
type bitWriter struct {
	bytes []byte
	n     int // bits
}

// write appends the lowest bits of v.
func (w *bitWriter) write(v, bits int) {
	for i := range bits {
		if w.n%8 == 0 {
			w.bytes = append(w.bytes, 0)
		}
		w.bytes[w.n/8] |= byte(v>>i&1) << (w.n % 8)
		w.n++
	}
}

// code appends a Huffman code, the highest bit first.
func (w *bitWriter) code(v, bits int) {
	for i := bits - 1; i >= 0; i-- {
		w.write(v>>i, 1)
	}
}

// single appends a Huffman tree whose only symbol is 0.
func (w *bitWriter) single() { w.write(1, 4) }

// full appends a Huffman tree with codes for all n symbols of an alphabet, the largest tree. n is
// at least 2^length and below 2^(length+1). The first symbols have codes of length bits, the others
// of one more.
func (w *bitWriter) full(n, length int) {
	short := 2<<length - n
	// Codes for the code lengths. In canonical order, the shortest code is 0.
	lengths, codes := map[int]int{length: 1, 16: 1}, map[int]int{length: 0, 16: 1}
	if short < n {
		lengths, codes = map[int]int{16: 1, length: 2, length + 1: 2}, map[int]int{16: 0, length: 2, length + 1: 3}
	}
	w.write(0, 1)
	w.write(19-4, 4)
	for _, l := range []int{17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15} {
		w.write(lengths[l], 3)
	}
	w.write(0, 1) // the lengths of the whole alphabet follow
	run := func(l, n int) {
		for first := true; n > 0; first = false {
			if first || n < 3 {
				w.code(codes[l], lengths[l])
				n--
				continue
			}
			again := min(n, 6) // 16 repeats the last length three to six times
			w.code(codes[16], lengths[16])
			w.write(again-3, 2)
			n -= again
		}
	}
	run(length, short)
	run(length+1, n-short)
}

// makeVP8L returns a lossless WebP file of side × side pixels. Tiles of 4 × 4 pixels refer to
// different groups of Huffman trees, of which there are as many as the argument says. All trees are
// as large as they can be. The file ends before the pixels.
func makeVP8L(side, groups int) []byte {
	w := &bitWriter{}
	w.write(0x2f, 8)
	w.write(side-1, 14)
	w.write(side-1, 14)
	w.write(0, 4) // no alpha, version 0
	w.write(0, 1) // no transforms
	w.write(1, 1) // a colour cache of 2048 colours, each with a symbol
	w.write(11, 4)
	w.write(1, 1) // an image of groups, with a tile of 4 × 4
	w.write(0, 3)
	w.write(0, 1)     // which has no colour cache
	w.full(256+24, 8) // green
	w.full(256, 8)    // red
	w.single()
	w.single()
	w.single()
	tiles := (side + 3) / 4
	for i := range tiles * tiles {
		group := i % groups
		// Of 280 symbols, the first 232 have codes of 8 bits.
		if green := group % 256; green < 232 {
			w.code(green, 8)
		} else {
			w.code(2*232+green-232, 9)
		}
		w.code(group/256, 8)
	}
	for range groups {
		w.full(256+24+2048, 11)
		for range 3 {
			w.full(256, 8)
		}
		w.full(40, 5)
	}
	return stillWebP("VP8L", w.bytes)
}

// maxWebPTrees is the largest memory in bytes that SECURITY.md states for the Huffman trees of a
// lossless WebP image.
const maxWebPTrees = 200 << 20

// TestWebPMemory measures the memory of a process that decodes a lossless WebP image with the most
// and the largest Huffman trees. golang.org/x/image/vp8l refuses more than 2600 groups.
func TestWebPMemory(t *testing.T) {
	const variable = "SPT_TEST_WEBP"
	if path := os.Getenv(variable); path != "" { // the process that is measured
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeImage(data); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("got %v", err)
		}
		status, err := os.ReadFile("/proc/self/status")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = os.Stdout.Write(status)
		return
	}
	if _, err := os.Stat("/proc/self/status"); err != nil {
		t.Skipf("needs the peak memory of a process, as Linux states it: %v", err)
	}
	peak := func(groups int) (memory, file int) {
		path := filepath.Join(t.TempDir(), "x.webp")
		data := makeVP8L(204, groups)
		if err := os.WriteFile(path, data, 0o666); err != nil {
			t.Fatal(err)
		}
		child := exec.Command(os.Args[0], "-test.run=^TestWebPMemory$")
		child.Env = append(os.Environ(), variable+"="+path)
		out, err := child.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		found := regexp.MustCompile(`VmHWM:\s+([0-9]+) kB`).FindSubmatch(out)
		if found == nil {
			t.Fatalf("no peak in %s", out)
		}
		kilobytes, _ := strconv.Atoi(string(found[1]))
		return kilobytes << 10, len(data)
	}
	small, _ := peak(1)
	large, file := peak(2600)
	t.Logf("%d bytes of WebP take %d MiB", file, (large-small)>>20)
	if large-small > maxWebPTrees {
		t.Errorf("%d bytes, want at most %d", large-small, maxWebPTrees)
	}
	if _, err := decodeImage(makeVP8L(208, 2601)); err == nil || !strings.Contains(err.Error(), "too many Huffman trees") {
		t.Errorf("2601 groups: %v", err)
	}
}
