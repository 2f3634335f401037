package jpeg

// inverse computes the samples of block (x, y) of the component, edge × edge of them.
func (c *component) inverse(b *block, quant *[64]uint16, x, y int) {
	stride := c.edge * c.stride
	out := c.samples[c.edge*(stride*y+x):]
	switch c.edge {
	case 8:
		inverseDCT(b, quant, out, stride)
	case 4:
		reduce4(b, quant, out, stride)
	case 2:
		reduce2(b, quant, out, stride)
	case 1:
		out[0] = clip((int32(b[0]*int16(quant[0]))+4)>>3 + 128)
	}
}

// reduce4 computes the samples of a block at half the width and height, with rows stride apart. It
// is the transform of libjpeg-turbo, which leaves out the coefficients of the fifth row and the
// fifth column, with 13 fractional bits.
func reduce4(b *block, quant *[64]uint16, out []uint8, stride int) {
	var t [4 * 8]int32
	for i := range 8 {
		if i == 4 {
			continue
		}
		at := func(row int) int32 { return int32(b[8*row+i] * int16(quant[8*row+i])) }
		if b[8+i]|b[16+i]|b[24+i]|b[40+i]|b[48+i]|b[56+i] == 0 {
			v := saturate16(at(0) << 2)
			t[i], t[8+i], t[16+i], t[24+i] = v, v, v, v
			continue
		}
		s := half(at(0), at(1), at(2), at(3), at(5), at(6), at(7))
		for k, v := range s {
			t[8*k+i] = saturate16((v + 1<<11) >> 12)
		}
	}
	for i := range 4 {
		r := (*[8]int32)(t[8*i:])
		s := half(r[0], r[1], r[2], r[3], r[5], r[6], r[7])
		row := (*[4]uint8)(out[i*stride:])
		for k, v := range s {
			row[k] = clip((v+1<<18)>>19 + 128)
		}
	}
}

// half computes four values of the one-dimensional inverse DCT of eight coefficients, without the
// fifth. The results have 14 more fractional bits than the coefficients.
func half(s0, s1, s2, s3, s5, s6, s7 int32) [4]int32 {
	e := s2*15137 - s6*6270 // 1.847759065, 0.765366865
	e0, e1 := s0<<14+e, s0<<14-e
	// 1.061594337, 2.172734803, 1.451774981, 0.211164243
	o1 := s1*8697 - s3*17799 + s5*11893 - s7*1730
	// 2.562915447, 0.899976223, 0.601344887, 0.509795579
	o0 := s1*20995 + s3*7373 - s5*4926 - s7*4176
	return [4]int32{e0 + o0, e1 + o1, e1 - o1, e0 - o0}
}

// reduce2 computes the samples of a block at a quarter of the width and height, with rows stride
// apart. It leaves out the even coefficients but the first, as libjpeg-turbo does.
func reduce2(b *block, quant *[64]uint16, out []uint8, stride int) {
	var t [2][8]int32
	for _, i := range [...]int{0, 1, 3, 5, 7} {
		at := func(row int) int32 { return int32(b[8*row+i] * int16(quant[8*row+i])) }
		if b[8+i]|b[24+i]|b[40+i]|b[56+i] == 0 {
			v := saturate16(at(0) << 2)
			t[0][i], t[1][i] = v, v
			continue
		}
		first, second := quarter(at(0), at(1), at(3), at(5), at(7))
		t[0][i], t[1][i] = saturate16((first+1<<12)>>13), saturate16((second+1<<12)>>13)
	}
	for i := range t {
		r := &t[i]
		first, second := quarter(r[0], r[1], r[3], r[5], r[7])
		row := (*[2]uint8)(out[i*stride:])
		row[0], row[1] = clip((first+1<<19)>>20+128), clip((second+1<<19)>>20+128)
	}
}

// quarter computes two values of the one-dimensional inverse DCT of eight coefficients, without the
// even ones but the first. The results have 15 more fractional bits than the coefficients.
func quarter(s0, s1, s3, s5, s7 int32) (first, second int32) {
	// 3.624509785, 1.272758580, 0.850430095, 0.720959822
	o := s1*29692 - s3*10426 + s5*6967 - s7*5906
	return s0<<15 + o, s0<<15 - o
}
