package jpeg

// inverseDCT computes the 8 × 8 samples of a block, with rows stride apart. It is the "slow"
// integer algorithm of libjpeg (Loeffler, Ligtenberg and Moschytz, 1989), with 13 fractional bits.
// Values that only damaged files have overflow as in the SIMD code of libjpeg-turbo, which keeps 16
// bits between the steps.
func inverseDCT(b *block, quant *[64]uint16, samples []uint8, stride int) {
	var t [64]int32
	rest := int16(0) // not zero if any row but the first has coefficients
	for _, v := range b[8:] {
		rest |= v
	}
	for i := range 8 {
		if rest == 0 {
			v := int32(b[i] * int16(quant[i]) << 2)
			for k := i; k < 64; k += 8 {
				t[k] = v
			}
			continue
		}
		if b[8+i]|b[16+i]|b[24+i]|b[32+i]|b[40+i]|b[48+i]|b[56+i] == 0 {
			v := saturate16(int32(b[i]*int16(quant[i])) << 2)
			for k := i; k < 64; k += 8 {
				t[k] = v
			}
			continue
		}
		s := [8]int32{
			int32(b[i] * int16(quant[i])), int32(b[8+i] * int16(quant[8+i])),
			int32(b[16+i] * int16(quant[16+i])), int32(b[24+i] * int16(quant[24+i])),
			int32(b[32+i] * int16(quant[32+i])), int32(b[40+i] * int16(quant[40+i])),
			int32(b[48+i] * int16(quant[48+i])), int32(b[56+i] * int16(quant[56+i])),
		}
		transform(&s)
		for k, v := range s {
			t[8*k+i] = saturate16((v + 1<<10) >> 11)
		}
	}
	for i := range 8 {
		s := (*[8]int32)(t[8*i : 8*i+8])
		transform(s)
		out := samples[stride*i:][:8]
		for k, v := range s {
			out[k] = clip((v+1<<17)>>18 + 128)
		}
	}
}

// transform computes a one-dimensional inverse DCT of eight values in place. The results have 13
// more fractional bits than the values, and are √8 times as large.
func transform(s *[8]int32) {
	z1 := (s[2] + s[6]) * 4433 // 0.541196100
	e2 := z1 - s[6]*15137      // 1.847759065
	e3 := z1 + s[2]*6270       // 0.765366865
	e0 := int32(int16(s[0]+s[4])) << 13
	e1 := int32(int16(s[0]-s[4])) << 13
	t10, t13, t11, t12 := e0+e3, e0-e3, e1+e2, e1-e2

	z3, z4 := int32(int16(s[7]+s[3])), int32(int16(s[5]+s[1]))
	z5 := (z3 + z4) * 9633       // 1.175875602
	z1 = -(s[7] + s[1]) * 7373   // 0.899976223
	z2 := -(s[5] + s[3]) * 20995 // 2.562915447
	z3 = z5 - z3*16069           // 1.961570560
	z4 = z5 - z4*3196            // 0.390180644
	o0 := s[7]*2446 + z1 + z3    // 0.298631336
	o1 := s[5]*16819 + z2 + z4   // 2.053119869
	o2 := s[3]*25172 + z2 + z3   // 3.072711026
	o3 := s[1]*12299 + z1 + z4   // 1.501321110
	s[0], s[7] = t10+o3, t10-o3
	s[1], s[6] = t11+o2, t11-o2
	s[2], s[5] = t12+o1, t12-o1
	s[3], s[4] = t13+o0, t13-o0
}

// saturate16 limits v to the range of int16.
func saturate16(v int32) int32 { return max(-1<<15, min(v, 1<<15-1)) }

// clip limits v to 0…255.
func clip(v int32) uint8 {
	if uint32(v) < 256 {
		return uint8(v)
	}
	return uint8(^v >> 31)
}
