package dataset

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
)

// TestDecodeStandardInput decodes files from standard input, each after its length in four bytes,
// and prints a line with the size and the SHA-256 of the pixels, or with the error. The script
// internal/fixtures/imagefuzz.py compares the lines with Pillow. The test is skipped otherwise.
func TestDecodeStandardInput(t *testing.T) {
	if os.Getenv("SPT_DECODE_STDIN") == "" {
		t.Skip("needs SPT_DECODE_STDIN, which imagefuzz.py in internal/fixtures sets")
	}
	in := bufio.NewReader(os.Stdin)
	for {
		var size [4]byte
		if _, err := io.ReadFull(in, size[:]); err == io.EOF {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		data := make([]byte, binary.LittleEndian.Uint32(size[:]))
		if _, err := io.ReadFull(in, data); err != nil {
			t.Fatal(err)
		}
		if f, err := sniff(data); err == nil {
			if w, h, err := f.size(data); err == nil && h > 0 && w > 8<<20/h {
				fmt.Println("refused: too many pixels for this test")
				continue
			}
		}
		m, err := decodeImage(data)
		if err != nil {
			fmt.Println("refused:", strings.ReplaceAll(err.Error(), "\n", " "))
			continue
		}
		fmt.Printf("%dx%d %x\n", m.Width, m.Height, sha256.Sum256(m.Pix))
	}
}
