package dataset

import (
	"errors"
	"fmt"
	"io"
	"math"
)

// pnmHeader is the header of a binary PGM (P5, grey) or PPM (P6, RGB) file.
type pnmHeader struct {
	// channels is 1 or 3.
	channels int

	// width and height are the size of the image in pixels.
	width, height int

	// size is the size of the header in bytes.
	size int

	// maximum is the value of full intensity, 1 to 65535. If it is above 255, a value takes two
	// bytes, the high byte first.
	maximum int
}

// readPNMHeader reads a header "P6 width height maximum" and the one white-space character after
// it. A # starts a comment, which ends at the end of the line. As in Pillow, a comment may stand
// inside a number or after the last one.
func readPNMHeader(data []byte) (h pnmHeader, err error) {
	invalid := errors.New("the header does not hold three positive numbers: width, height and maximum")
	h.channels = 1
	if data[1] == '6' {
		h.channels = 3
	}
	i := 2
	if i < len(data) && !isPNMSpace(data[i]) {
		return h, invalid
	}
	for _, field := range []*int{&h.width, &h.height, &h.maximum} {
		digits := 0
		for ; i < len(data) && !(digits > 0 && isPNMSpace(data[i])); i++ {
			switch c := data[i]; {
			case isPNMSpace(c):
			case c == '#':
				for i < len(data) && data[i] != '\n' && data[i] != '\r' {
					i++
				}
			case c < '0' || c > '9' || digits == 9:
				return h, invalid
			default:
				*field = 10**field + int(c-'0')
				digits++
			}
		}
		if *field == 0 {
			return h, invalid
		}
		i++ // the white space after the number
	}
	if i > len(data) {
		return h, io.ErrUnexpectedEOF
	}
	if h.maximum > 65535 {
		return h, fmt.Errorf("maximum value %d is above 65535", h.maximum)
	}
	h.size = i
	return h, nil
}

// isPNMSpace reports whether a character separates the numbers of a header.
func isPNMSpace(c byte) bool { return c == ' ' || '\t' <= c && c <= '\r' }

// pnmSize returns the size of a PGM or PPM image.
func pnmSize(data []byte) (width, height int, err error) {
	h, err := readPNMHeader(data)
	return h.width, h.height, err
}

// decodePNM decodes a PGM or PPM file.
func decodePNM(data []byte) (*RGB, error) {
	h, err := readPNMHeader(data)
	if err != nil {
		return nil, err
	}
	sampleBytes := 1
	if h.maximum > 255 {
		sampleBytes = 2
	}
	samples := data[h.size:]
	if len(samples) < h.width*h.height*h.channels*sampleBytes {
		return nil, io.ErrUnexpectedEOF
	}
	m := newRGB(h.width, h.height)
	for i := range m.Pix {
		j := i
		if h.channels == 1 {
			j = i / 3
		}
		v := int(samples[j*sampleBytes])
		if sampleBytes == 2 {
			v = v<<8 | int(samples[2*j+1])
		}
		// as Python rounds
		m.Pix[i] = uint8(math.RoundToEven(min(float64(v)/float64(h.maximum)*255, 255)))
	}
	return m, nil
}
