package dataset

import "github.com/sptune/spt/internal/jpeg"

// decodeJPEG decodes a JPEG file.
func decodeJPEG(file []byte) (*RGB, error) { return reduceJPEG(file, 1) }

// reduceJPEG decodes a JPEG file, with the width and the height divided by the denominator.
func reduceJPEG(file []byte, denominator int) (*RGB, error) {
	m, err := jpeg.Decode(file, jpeg.Options{Denominator: denominator})
	if err != nil {
		return nil, err
	}
	if m.Channels == 4 { // Pillow assumes the inverted inks of Adobe's programs
		for i, v := range m.Pix {
			m.Pix[i] = ^v
		}
	}
	return fromSamples(m.Width, m.Height, m.Channels, m.Pix), nil
}
