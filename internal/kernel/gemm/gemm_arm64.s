#include "textflag.h"

// The sums are 8 rows × 12 columns. Row i is in V(3i), V(3i+1) and V(3i+2).

#define ZERO3(x, y, z) \
	VEOR x.B16, x.B16, x.B16 \
	VEOR y.B16, y.B16, y.B16 \
	VEOR z.B16, z.B16, z.B16

#define ZERO \
	ZERO3(V0, V1, V2) \
	ZERO3(V3, V4, V5) \
	ZERO3(V6, V7, V8) \
	ZERO3(V9, V10, V11) \
	ZERO3(V12, V13, V14) \
	ZERO3(V15, V16, V17) \
	ZERO3(V18, V19, V20) \
	ZERO3(V21, V22, V23)

#define MULADD3(a, x, y, z) \
	VFMLA V24.S4, a.S4, x.S4 \
	VFMLA V25.S4, a.S4, y.S4 \
	VFMLA V26.S4, a.S4, z.S4

// ROW broadcasts one element of the strip to all lanes of a and multiplies it by a row of the panel.
#define ROW(a, x, y, z) \
	VLD1R.P 4(R1), [a.S4] \
	MULADD3(a, x, y, z)

// func sumsNEON(sums *[96]float32, a, b unsafe.Pointer, ldb, k int)
TEXT ·sumsNEON(SB), NOSPLIT, $0-40
	MOVD sums+0(FP), R0
	MOVD a+8(FP), R1
	MOVD b+16(FP), R2
	MOVD ldb+24(FP), R3
	MOVD k+32(FP), R4
	ZERO
	CBZ  R4, store

step:
	VLD1 (R2), [V24.S4, V25.S4, V26.S4]
	ADD  R3, R2
	ROW(V27, V0, V1, V2)
	ROW(V28, V3, V4, V5)
	ROW(V29, V6, V7, V8)
	ROW(V30, V9, V10, V11)
	ROW(V27, V12, V13, V14)
	ROW(V28, V15, V16, V17)
	ROW(V29, V18, V19, V20)
	ROW(V30, V21, V22, V23)
	SUB  $1, R4
	CBNZ R4, step

store:
	VST1.P [V0.S4, V1.S4, V2.S4, V3.S4], 64(R0)
	VST1.P [V4.S4, V5.S4, V6.S4, V7.S4], 64(R0)
	VST1.P [V8.S4, V9.S4, V10.S4, V11.S4], 64(R0)
	VST1.P [V12.S4, V13.S4, V14.S4, V15.S4], 64(R0)
	VST1.P [V16.S4, V17.S4, V18.S4, V19.S4], 64(R0)
	VST1   [V20.S4, V21.S4, V22.S4, V23.S4], (R0)
	RET

// func peakNEON(n int)
TEXT ·peakNEON(SB), NOSPLIT, $0-8
	MOVD n+0(FP), R4
	ZERO
	ZERO3(V24, V25, V26)
	VEOR V27.B16, V27.B16, V27.B16

round:
	MULADD3(V27, V0, V1, V2)
	MULADD3(V27, V3, V4, V5)
	MULADD3(V27, V6, V7, V8)
	MULADD3(V27, V9, V10, V11)
	MULADD3(V27, V12, V13, V14)
	MULADD3(V27, V15, V16, V17)
	MULADD3(V27, V18, V19, V20)
	MULADD3(V27, V21, V22, V23)
	SUB  $1, R4
	CBNZ R4, round
	RET
