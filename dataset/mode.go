package dataset

import (
	"encoding/binary"
	"fmt"
)

// modeOf returns the kind of pixels that an image file holds, such as "RGB", "grey", "RGB with
// alpha", "palette", "CMYK" or "16-bit grey", from its header. It returns "" if the header does not
// say. The file can be decoded, but may still be hostile.
func modeOf(data []byte) string {
	f, err := sniff(data)
	if err != nil {
		return ""
	}
	switch f.name {
	case "jpeg":
		return jpegMode(data)
	case "png":
		return pngMode(data)
	case "gif":
		return "palette"
	case "webp":
		return webpMode(data)
	case "bmp":
		return bmpMode(data)
	case "tiff":
		return tiffMode(data)
	case "pnm":
		h, err := readPNMHeader(data)
		if err != nil {
			return ""
		}
		depth := 8
		if h.maximum > 255 {
			depth = 16
		}
		return pixelMode(map[int]string{1: "grey", 3: "RGB"}[h.channels], false, depth)
	}
	return ""
}

// pixelMode returns the name of a kind of pixels.
func pixelMode(colours string, alpha bool, depth int) string {
	if depth != 8 {
		colours = fmt.Sprintf("%d-bit %s", depth, colours)
	}
	if alpha {
		colours += " with alpha"
	}
	return colours
}

// jpegMode returns the mode of a JPEG file, whose frame header holds the depth and the number of
// channels.
func jpegMode(data []byte) string {
	for at := 2; at+4 <= len(data); {
		if data[at] != 0xff {
			at++
			continue
		}
		marker := data[at+1]
		switch {
		case marker == 0xff:
			at++
			continue
		case marker == 0 || marker == 1 || marker >= 0xd0 && marker <= 0xd8:
			at += 2
			continue
		case marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc && at+10 <= len(data):
			names := map[byte]string{1: "grey", 3: "RGB", 4: "CMYK"}
			if name, ok := names[data[at+9]]; ok {
				return pixelMode(name, false, int(data[at+4]))
			}
			return ""
		}
		at += 2 + int(binary.BigEndian.Uint16(data[at+2:]))
	}
	return ""
}

// pngMode returns the mode of a PNG file.
func pngMode(data []byte) string {
	if len(data) < 26 {
		return ""
	}
	depth, kind := int(data[24]), data[25]
	switch kind {
	case 0, 4:
		return pixelMode("grey", kind == 4, depth)
	case 2, 6:
		return pixelMode("RGB", kind == 6, depth)
	case 3:
		return "palette"
	}
	return ""
}

// webpMode returns the mode of a WebP file.
func webpMode(data []byte) string {
	for kind, chunk := range webpChunks(data) {
		switch {
		case kind == "VP8X" && len(chunk) > 0:
			return pixelMode("RGB", chunk[0]&0x10 != 0, 8)
		case kind == "VP8L" && len(chunk) > 4:
			return pixelMode("RGB", chunk[4]&0x10 != 0, 8)
		case kind == "VP8 ":
			return "RGB"
		}
	}
	return ""
}

// bmpMode returns the mode of a BMP file.
func bmpMode(data []byte) string {
	if len(data) < 30 {
		return ""
	}
	bits := binary.LittleEndian.Uint16(data[28:])
	if binary.LittleEndian.Uint32(data[14:]) == 12 {
		bits = binary.LittleEndian.Uint16(data[24:])
	}
	if bits <= 8 {
		return "palette"
	}
	return pixelMode("RGB", bits == 32, 8)
}

// tiffMode returns the mode of the first page of a TIFF file.
func tiffMode(data []byte) string {
	d, err := readDirectory(data)
	if err != nil {
		return ""
	}
	depth, samples := d.number(tagBits, 1), d.number(tagSamplesPerPixel, 1)
	switch d.number(tagPhotometric, 1) {
	case 0, 1:
		return pixelMode("grey", samples > 1, depth)
	case 2:
		return pixelMode("RGB", samples > 3, depth)
	case 3:
		return "palette"
	case 5:
		return pixelMode("CMYK", samples > 4, depth)
	case 6:
		return pixelMode("RGB", false, depth) // YCbCr
	case 8:
		return pixelMode("Lab", samples > 3, depth)
	}
	return ""
}
