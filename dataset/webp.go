package dataset

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"io"
	"iter"

	"golang.org/x/image/webp"
)

// webpChunks yields the kinds and data of the chunks of a WebP file. The chunk ANMF is a frame of
// an animation; webpChunks yields its header and then the chunks inside it. It stops at a chunk
// that exceeds the size of the file, as the header of the file states it.
func webpChunks(file []byte) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		if len(file) < 12 { // "RIFF", the size and "WEBP"
			return
		}
		file = file[:min(uint64(len(file)), 8+uint64(binary.LittleEndian.Uint32(file[4:])))]
		for at := 12; at+8 <= len(file); {
			kind, size := string(file[at:at+4]), uint64(binary.LittleEndian.Uint32(file[at+4:]))
			at += 8
			if size > uint64(len(file)-at) {
				return
			}
			if kind == "ANMF" && size >= webpFrameHeader {
				size = webpFrameHeader
			}
			if !yield(kind, file[at:at+int(size)]) {
				return
			}
			at += int(size + size%2)
		}
	}
}

// webpFrameHeader is the size of the header of an animation's frame in bytes.
const webpFrameHeader = 16

// webpFrame is the first frame of a WebP file.
type webpFrame struct {
	width, height int    // of the canvas; 0 if the frame is the whole image
	x, y          int    // of the frame
	still         []byte // the frame as a WebP file without alpha and metadata
}

// readWebP finds the first frame of a WebP file. Like libwebp, it takes a frame of an animation to
// end at the first chunk that is neither alpha nor pixels, and skips a frame without both.
func readWebP(file []byte) (f webpFrame, err error) {
	if len(file) < 12 || uint64(binary.LittleEndian.Uint32(file[4:]))+8 > uint64(len(file)) {
		return f, io.ErrUnexpectedEOF
	}
	animated, inFrame, alpha := false, false, false
	for kind, data := range webpChunks(file) {
		switch {
		case kind == "VP8X" && len(data) >= 10:
			animated = data[0]&2 != 0
			f.width, f.height = 1+uint24(data[4:]), 1+uint24(data[7:])
		case (kind == "VP8 " || kind == "VP8L") && (inFrame || !animated):
			f.still = stillWebP(kind, data)
			return f, nil
		case kind == "ALPH" && inFrame && !alpha:
			alpha = true
		case kind == "VP8 " || kind == "VP8L" || alpha:
			return f, errors.New("the first frame of the animation has no pixels")
		default:
			if inFrame = kind == "ANMF" && animated && len(data) == webpFrameHeader; inFrame {
				f.x, f.y = 2*uint24(data), 2*uint24(data[3:])
			}
		}
	}
	return f, io.ErrUnexpectedEOF
}

// stillWebP returns a WebP file with one chunk.
func stillWebP(kind string, data []byte) []byte {
	padding := len(data) % 2
	out := binary.LittleEndian.AppendUint32([]byte("RIFF"), uint32(12+len(data)+padding))
	out = append(append(out, "WEBP"...), kind...)
	out = append(binary.LittleEndian.AppendUint32(out, uint32(len(data))), data...)
	return append(out, make([]byte, padding)...)
}

// uint24 returns a number of three bytes.
func uint24(b []byte) int { return int(b[0]) | int(b[1])<<8 | int(b[2])<<16 }

// webpSize returns the size of a WebP image, or of the canvas of an animation.
func webpSize(file []byte) (width, height int, err error) {
	f, err := readWebP(file)
	if err != nil {
		return 0, 0, err
	}
	c, err := webp.DecodeConfig(bytes.NewReader(f.still))
	if err != nil {
		return 0, 0, err
	}
	if f.width == 0 {
		return c.Width, c.Height, nil
	}
	if f.x+c.Width > f.width || f.y+c.Height > f.height {
		return 0, 0, fmt.Errorf("the first frame of %d×%d pixels at (%d, %d) exceeds the canvas of %d×%d", c.Width, c.Height, f.x, f.y, f.width, f.height)
	}
	return f.width, f.height, nil
}

// decodeWebP decodes a WebP file, of an animation the first frame. Alpha is dropped. Pixels outside
// the frame are black, as in Pillow.
func decodeWebP(file []byte) (*RGB, error) {
	f, err := readWebP(file)
	if err != nil {
		return nil, err
	}
	frame, err := decodeStillWebP(f.still)
	if err != nil || f.width == 0 || frame.Width == f.width && frame.Height == f.height {
		return frame, err
	}
	m := newRGB(f.width, f.height)
	for y := range frame.Height {
		copy(m.Pix[3*((f.y+y)*m.Width+f.x):], frame.Pix[3*y*frame.Width:3*(y+1)*frame.Width])
	}
	return m, nil
}

// decodeStillWebP decodes a WebP file with one chunk. The YCbCr values of WebP are BT.601 in the
// studio range 16…235, but image.YCbCr assumes the full range of JPEG. Lossy images therefore need
// their own conversion to RGB.
func decodeStillWebP(file []byte) (*RGB, error) {
	for kind, data := range webpChunks(file) {
		if kind == "VP8 " {
			if err := checkVP8(data); err != nil {
				return nil, err
			}
		}
	}
	m, err := webp.Decode(bytes.NewReader(file))
	if err != nil {
		return nil, err
	}
	switch m := m.(type) {
	case *image.YCbCr:
		return webpToRGB(m), nil
	case *image.NRGBA:
		out := newRGB(m.Rect.Dx(), m.Rect.Dy())
		u := newUnpacker(8, 4)
		for y := range out.Height {
			u.unpack(out.Pix[3*y*out.Width:], m.Pix[y*m.Stride:], out.Width, 1)
		}
		return out, nil
	}
	return nil, fmt.Errorf("pixels of type %T are not supported", m)
}

// webpToRGB converts a decoded lossy WebP image to RGB. The image is BT.601 in the studio range
// with the ratio 4:2:0. The triangle filter and the rounding are those of libwebp
// (dsp/upsampling.c, dsp/yuv.h).
func webpToRGB(m *image.YCbCr) *RGB {
	w, h := m.Rect.Dx(), m.Rect.Dy()
	out := newRGB(w, h)
	lastX, lastY := (w+1)/2-1, (h+1)/2-1
	other := func(i, last int) int { // the second nearest chroma index to index i of the image
		if i&1 == 0 {
			return max(i/2-1, 0)
		}
		return min(i/2+1, last)
	}
	for y := range h {
		near, far := y/2*m.CStride, other(y, lastY)*m.CStride
		dst := out.Pix[3*y*w : 3*(y+1)*w]
		for x, luma := range m.Y[y*m.YStride : y*m.YStride+w] {
			x0, x1 := x/2, other(x, lastX)
			u := webpSample(m.Cb[near+x0], m.Cb[near+x1], m.Cb[far+x0], m.Cb[far+x1])
			v := webpSample(m.Cr[near+x0], m.Cr[near+x1], m.Cr[far+x0], m.Cr[far+x1])
			l := int32(luma) * 19077 >> 8
			dst[3*x] = clip8((l + v*26149>>8 - 14234) >> 6)
			dst[3*x+1] = clip8((l - u*6419>>8 - v*13320>>8 + 8708) >> 6)
			dst[3*x+2] = clip8((l + u*33050>>8 - 17685) >> 6)
		}
	}
	return out
}

// webpSample returns the weighted mean of four chroma samples: the nearest one by 9/16, its two
// neighbours by 3/16 each, and the diagonal neighbour by 1/16.
func webpSample(near, beside, above, diagonal uint8) int32 {
	n, b, a, d := int32(near), int32(beside), int32(above), int32(diagonal)
	return ((n+b+a+d+8+2*(b+a))>>3 + n) >> 1
}

// clip8 limits v to 0…255.
func clip8(v int32) uint8 { return uint8(max(0, min(v, 255))) }
