package dataset

import (
	"bytes"
	"compress/zlib"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"runtime"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// allocated returns the number of bytes that f allocates.
func allocated(f func()) int {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return int(after.TotalAlloc - before.TotalAlloc)
}

// deflated returns n zeros, compressed with zlib.
func deflated(n int) []byte {
	var b bytes.Buffer
	z := zlib.NewWriter(&b)
	for ; n > 0; n -= 1 << 16 {
		_, _ = z.Write(make([]byte, min(n, 1<<16))) // a Buffer never fails
	}
	_ = z.Close()
	return b.Bytes()
}

// makePNG returns a PNG file with 16 bits in each of four channels, all of them 0. texts are chunks
// before the pixels.
func makePNG(width, height int, texts ...string) []byte {
	file := []byte(pngSignature)
	chunk := func(body string, data []byte) {
		file = binary.BigEndian.AppendUint32(file, uint32(len(body)-4+len(data)))
		at := len(file)
		file = append(append(file, body...), data...)
		file = binary.BigEndian.AppendUint32(file, crc32.ChecksumIEEE(file[at:]))
	}
	size := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, uint32(width)), uint32(height))
	chunk("IHDR"+string(size), []byte{16, 6, 0, 0, 0})
	for _, text := range texts {
		chunk(text, nil)
	}
	chunk("IDAT", deflated(height*(1+8*width)))
	chunk("IEND", nil)
	return file
}

// makeTIFF returns a little-endian TIFF file. segments are the places of all strips or tiles; equal
// ones are written once. tags are pairs of tag and value.
func makeTIFF(tileTags bool, segments [][]byte, tags ...int) []byte {
	file := []byte("II\x2a\x00\x00\x00\x00\x00")
	offsets, counts := []byte{}, []byte{}
	for i, s := range segments {
		at := len(file)
		if i > 0 && &s[0] == &segments[i-1][0] {
			at -= len(s)
		} else {
			file = append(file, s...)
		}
		offsets = binary.LittleEndian.AppendUint32(offsets, uint32(at))
		counts = binary.LittleEndian.AppendUint32(counts, uint32(len(s)))
	}
	value := func(list []byte) int {
		if len(segments) == 1 {
			return int(binary.LittleEndian.Uint32(list))
		}
		file = append(file, list...)
		return len(file) - len(list)
	}
	offset, count := value(offsets), value(counts)
	binary.LittleEndian.PutUint32(file[4:], uint32(len(file)))
	entry := func(tag, n, v int) {
		file = binary.LittleEndian.AppendUint16(file, uint16(tag))
		file = binary.LittleEndian.AppendUint16(file, 4)
		file = binary.LittleEndian.AppendUint32(file, uint32(n))
		file = binary.LittleEndian.AppendUint32(file, uint32(v))
	}
	file = binary.LittleEndian.AppendUint16(file, uint16(2+len(tags)/2))
	for i := 0; i < len(tags); i += 2 {
		entry(tags[i], 1, tags[i+1])
	}
	offsetTag, countTag := tagStripOffsets, tagStripCounts
	if tileTags {
		offsetTag, countTag = tagTileOffsets, tagTileCounts
	}
	entry(offsetTag, len(segments), offset)
	entry(countTag, len(segments), count)
	return file
}

// repeated returns a list of n equal segments.
func repeated(segment []byte, n int) [][]byte {
	list := make([][]byte, n)
	for i := range list {
		list[i] = segment
	}
	return list
}

// TestDecodeMemory decodes small files that stand for much data. Their images are small too, so
// that the test is fast; the memory is a multiple of the pixels, and a constant.
func TestDecodeMemory(t *testing.T) {
	const side = 1500
	rgb16 := func(planar int, more ...int) []int {
		return append([]int{tagWidth, side, tagHeight, side, tagBits, 16, tagSamplesPerPixel, 6, tagPhotometric, tiffRGB, tagPlanar, planar}, more...)
	}
	zeros := deflated(side * side * 12)
	text := "zTXtXML:com.adobe.xmp\x00\x00" + string(deflated(1<<20))
	texts := make([]string, 300)
	for i := range texts {
		texts[i] = text
	}
	// Blocks of deflate without data, and one with a zero.
	empty := "\x78\x01" + strings.Repeat("\x00\x00\x00\xff\xff", 10_000) + "\x01\x01\x00\xfe\xff\x00\x00\x01\x00\x01"
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	wide := encoder.EncodeAll(make([]byte, 1), nil)
	// a window of 128 MiB, and one byte
	wide = append(bytes.Clone(wide[:4]), "\x00\x88\x0b\x00\x00\x00"...)
	bmp := "BM\x00\x00\x00\x00\x00\x00\x00\x00\x36\x04\x00\x00\x28\x00\x00\x00\xdc\x05\x00\x00\xdc\x05\x00\x00\x01\x00\x08\x00\x01\x00\x00\x00" +
		strings.Repeat("\x00", 20+1024) + strings.Repeat("\x00\x02\xff\xff", 7)
	gif := "GIF89a\xdc\x05\xdc\x05\x00\x00\x00" + strings.Repeat("!\xf9\x04\x01\x00\x00\x00\x00", 50_000) + ",\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02\x44\x01\x00;"
	for _, c := range []struct {
		name   string
		file   []byte
		pixels int
		fails  string
	}{
		{"PNG", makePNG(side, side), side * side, ""},
		{"PNG of one row", makePNG(maxEdge, 1), maxEdge, ""},
		{"PNG of one row that is too wide", makePNG(maxEdge+1, 1), 0, "width and height must be at most 1048576"},
		{"PNG with texts", makePNG(8, 8, texts...), 64, ""},
		{"GIF with extensions", []byte(gif), side * side, ""},
		{"BMP of steps", []byte(bmp), side * side, ""},
		{"TIFF", makeTIFF(false, [][]byte{zeros}, rgb16(1, tagCompression, tiffDeflate)...), side * side, ""},
		{"TIFF in planes", makeTIFF(false, repeated(deflated(side*side*2), 6), rgb16(2, tagCompression, tiffDeflate, tagExtraSamples, 0)...), side * side, ""},
		{"TIFF in PackBits", makeTIFF(false, [][]byte{bytes.Repeat([]byte{0x81, 0}, side*side*12/128+1)}, rgb16(1, tagCompression, tiffPackBits)...), side * side, ""},
		{"TIFF with a tile of 200 million pixels", makeTIFF(true, [][]byte{zeros}, tagWidth, 1, tagHeight, 1, tagBits, 8, tagCompression, tiffDeflate, tagTileWidth, 1<<20, tagTileHeight, 200), 0, "truncated"},
		{"TIFF with a tile of 400 million pixels", makeTIFF(true, [][]byte{zeros}, tagWidth, 1, tagHeight, 1, tagBits, 8, tagCompression, tiffDeflate, tagTileWidth, 1<<20, tagTileHeight, 400), 0, "are not supported for an image of 1×1"},
		{"TIFF with tiles that are too large together", makeTIFF(true, repeated(zeros, 1000), tagWidth, 1000, tagHeight, 1, tagBits, 8, tagCompression, tiffDeflate, tagTileWidth, 1, tagTileHeight, 1<<20), 0, "because together they have 1000×1048576 pixels"},
		{"TIFF with strips that overlap", makeTIFF(false, repeated([]byte(empty), 1000), tagWidth, 1, tagHeight, 1000, tagRowsPerStrip, 1, tagBits, 8, tagCompression, tiffDeflate), 1000, "they overlap"},
		{"TIFF with reversed bits", makeTIFF(false, repeated(make([]byte, 1<<17), 1000), tagWidth, 1, tagHeight, 1000, tagRowsPerStrip, 1, tagBits, 8, tagCompression, tiffPackBits, tagFillOrder, 2), 1000, "they overlap"},
		{"TIFF with tags of a million values", makeTIFF(false, repeated([]byte{0}, 1_000_000), tagWidth, 1, tagHeight, 1, tagBits, 8), 1, ""},
		{"TIFF with large windows of Zstandard", makeTIFF(false, repeated(wide, 50), tagWidth, 1, tagHeight, 50, tagRowsPerStrip, 1, tagBits, 8, tagCompression, tiffZstd), maxTIFFWindow / 16, ""},
	} {
		var err error
		got := allocated(func() { _, err = decodeImage(c.file) })
		if c.fails == "" && err != nil || c.fails != "" && (err == nil || !strings.Contains(err.Error(), c.fails)) {
			t.Errorf("%s: error %v, want %q", c.name, err, c.fails)
		}
		if limit := 16*c.pixels + 2*len(c.file) + 24<<20; got > limit {
			t.Errorf("%s: %d bytes were allocated for %d pixels in %d bytes, want at most %d", c.name, got, c.pixels, len(c.file), limit)
		}
	}
}

// TestMessages checks that messages show only a part of long texts, and no characters that change
// what a terminal shows.
func TestMessages(t *testing.T) {
	long := strings.Repeat("x", 2_000_000)
	strange := "a\x1b[31m\u202ered\nline"
	for name, files := range map[string]tree{
		"a path in a CSV":              {"train.csv": "image,label\n../" + long + ",cat\n"},
		"a label in a CSV":             {"train.csv": "image,label\na.png," + long + "\n"},
		"a header of a CSV":            {"train.csv": long + ",x\n"},
		"a path in a VTAB list":        {"train800.txt": "../" + long + " 1\n"},
		"a line of a VTAB list":        {"train800.txt": long},
		"a label in a VTAB list":       {"train800.txt": "a " + long + "\n"},
		"a class":                      {"train800.txt": "a 1\n", "classes.txt": "a" + long[:1<<20] + "\na" + long[:1<<20] + "\n"},
		"a key in JSON":                {"train.json": `{"../` + long + `": 1}`},
		"a twice listed key in JSON":   {"train.json": `{"` + long + `": 1, "` + long + `": 2}`},
		"a value in JSON":              {"train.json": `{"a.png": "` + long + `"}`},
		"a number in JSON":             {"train.json": `{"a.png": 1` + strings.Repeat("0", len(long)) + `}`},
		"a text for an object":         {"train.json": `"` + long + `"`},
		"a key in JSON lines":          {"metadata.jsonl": `{"` + long + `": 1, "` + long + `": 2}`},
		"a value in JSON lines":        {"metadata.jsonl": `{"file_name": ["` + long + `"], "label": 1}`},
		"a text in JSON lines":         {"metadata.jsonl": `"` + long + `"`},
		"a strange image":              {"train.csv": "image,label\n\"" + strange + "\",cat\n"},
		"a strange image that is gone": {"train800.txt": strange[:strings.Index(strange, "\n")] + " 1\n"},
		"a strange file":               {"cat/" + strange + ".png": "@gone"},
		"a strange folder":             {"cat/" + strange + "/x.png": "@gone", "dog/x.png": "@gone"},
		"a strange class":              {strange + "/x.png": "image"},
		"a strange empty class":        {"cat/x.png": "image", strange + "/": ""},
		"a strange loop":               {strange + "/x": "@../" + strange},
	} {
		_, err := Open(t.Context(), files.write(t), OpenOptions{ValFraction: -1, TestFraction: -1})
		if err == nil && name == "a strange class" {
			continue
		}
		text := fmt.Sprint(err)
		if err == nil || len(text) > 2000 {
			t.Errorf("%s: a message of %d bytes: %.500s", name, len(text), text)
		}
	}
}

// TestCancelledTables checks that reading a long list ends when the context is done.
func TestCancelledTables(t *testing.T) {
	for name, text := range map[string]string{
		"train.csv":      "image,label\n" + strings.Repeat("a.png,cat\n", 2_000_000),
		"metadata.jsonl": strings.Repeat(`{"file_name": "a.png", "label": 1}`+"\n", 1_000_000),
		"train.json":     `{"a.png": 1` + strings.Repeat(`, "b.png": 1`, 2_000_000) + `}`,
		"train800.txt":   strings.Repeat("a.png 1\n", 2_000_000),
	} {
		ctx, cancel := context.WithCancel(t.Context())
		var err error
		got := allocated(func() {
			cancel()
			switch name {
			case "train.csv":
				_, err = parseCSV(ctx, name, []byte(text), false, OpenOptions{}, labelForm{})
			case "metadata.jsonl":
				_, err = parseJSONLines(ctx, name, []byte(text), OpenOptions{}, labelForm{})
			case "train.json":
				_, err = parseJSONList(ctx, name, []byte(text))
			default:
				_, err = parseList(ctx, name, []byte(text), 10)
			}
		})
		if !errors.Is(err, context.Canceled) || got > len(text)+1<<20 {
			t.Errorf("%s: error %v after %d bytes", name, err, got)
		}
	}
}
