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

// The assembler of Go has no multiply-add by one element of a vector. FMLAE adds the product of the
// vector n and of element i of the vector m to the vector d.
#define FMLAE(n, m, i, d) WORD $(0x4f801000|(i&1)<<21|(i>>1)<<11|m<<16|n<<5|d)

// ROW multiplies element i of the vector a by a row of the panel.
#define ROW(a, i, x, y, z) \
	FMLAE(24, a, i, x) \
	FMLAE(25, a, i, y) \
	FMLAE(26, a, i, z)

// func sumsNEON(sums *[96]float32, a, b unsafe.Pointer, ldb, k int, add bool)
TEXT ·sumsNEON(SB), NOSPLIT, $0-41
	MOVD  sums+0(FP), R0
	MOVD  a+8(FP), R1
	MOVD  b+16(FP), R2
	MOVD  ldb+24(FP), R3
	MOVD  k+32(FP), R4
	MOVBU add+40(FP), R5
	CBNZ  R5, previous
	ZERO
	CBZ   R4, store
	B     step

previous:
	MOVD   R0, R5
	VLD1.P 64(R5), [V0.S4, V1.S4, V2.S4, V3.S4]
	VLD1.P 64(R5), [V4.S4, V5.S4, V6.S4, V7.S4]
	VLD1.P 64(R5), [V8.S4, V9.S4, V10.S4, V11.S4]
	VLD1.P 64(R5), [V12.S4, V13.S4, V14.S4, V15.S4]
	VLD1.P 64(R5), [V16.S4, V17.S4, V18.S4, V19.S4]
	VLD1   (R5), [V20.S4, V21.S4, V22.S4, V23.S4]
	CBZ    R4, store

step:
	VLD1   (R2), [V24.S4, V25.S4, V26.S4]
	ADD    R3, R2
	VLD1.P 32(R1), [V27.S4, V28.S4]
	ROW(27, 0, 0, 1, 2)
	ROW(27, 1, 3, 4, 5)
	ROW(27, 2, 6, 7, 8)
	ROW(27, 3, 9, 10, 11)
	ROW(28, 0, 12, 13, 14)
	ROW(28, 1, 15, 16, 17)
	ROW(28, 2, 18, 19, 20)
	ROW(28, 3, 21, 22, 23)
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

// The assembler of Go has no floating-point additions and products of vectors.
#define FADD(n, m, d) WORD $(0x4e20d400|m<<16|n<<5|d)
#define FMUL(n, m, d) WORD $(0x6e20dc00|m<<16|n<<5|d)
#define FADDP(n, m, d) WORD $(0x6e20d400|m<<16|n<<5|d)

// func writeNEON(dst unsafe.Pointer, ldd int, sums *[96]float32, rows int, src unsafe.Pointer, lds int, residual unsafe.Pointer, ldr int, bias unsafe.Pointer, alpha, gamma float32)
TEXT ·writeNEON(SB), NOSPLIT, $0-80
	MOVD  dst+0(FP), R0
	MOVD  ldd+8(FP), R1
	MOVD  sums+16(FP), R2
	MOVD  rows+24(FP), R3
	MOVD  src+32(FP), R4
	MOVD  lds+40(FP), R5
	MOVD  residual+48(FP), R6
	MOVD  ldr+56(FP), R7
	MOVD  bias+64(FP), R8
	FMOVS alpha+72(FP), F16
	FMOVS gamma+76(FP), F17
	VDUP  V16.S[0], V16.S4
	VDUP  V17.S[0], V17.S4
	CBZ   R8, row
	VLD1  (R8), [V18.S4, V19.S4, V20.S4]

row:
	VLD1.P 48(R2), [V0.S4, V1.S4, V2.S4]
	FMUL(0, 16, 0)
	FMUL(1, 16, 1)
	FMUL(2, 16, 2)
	CBZ    R4, noSource
	VLD1   (R4), [V3.S4, V4.S4, V5.S4]
	ADD    R5, R4
	VFMLA  V17.S4, V3.S4, V0.S4
	VFMLA  V17.S4, V4.S4, V1.S4
	VFMLA  V17.S4, V5.S4, V2.S4

noSource:
	CBZ R8, noBias
	FADD(0, 18, 0)
	FADD(1, 19, 1)
	FADD(2, 20, 2)

noBias:
	CBZ  R6, noResidual
	VLD1 (R6), [V3.S4, V4.S4, V5.S4]
	ADD  R7, R6
	FADD(0, 3, 0)
	FADD(1, 4, 1)
	FADD(2, 5, 2)

noResidual:
	VST1 [V0.S4, V1.S4, V2.S4], (R0)
	ADD  R1, R0
	SUBS $1, R3
	BNE  row
	RET

// func dotsNEON(sums *[8]float32, a, b unsafe.Pointer, ldb, k int)
TEXT ·dotsNEON(SB), NOSPLIT, $0-40
	MOVD sums+0(FP), R0
	MOVD a+8(FP), R1
	MOVD b+16(FP), R2
	MOVD ldb+24(FP), R3
	MOVD k+32(FP), R4
	ADD  R3, R2, R5
	ADD  R3, R5, R6
	ADD  R3, R6, R7
	ADD  R3, R7, R8
	ADD  R3, R8, R9
	ADD  R3, R9, R10
	ADD  R3, R10, R11
	ZERO3(V0, V1, V2)
	ZERO3(V3, V4, V5)
	ZERO3(V6, V7, V8)

inner:
	FMOVQ.P 16(R1), F16
	FMOVQ.P 16(R2), F17
	FMOVQ.P 16(R5), F18
	FMOVQ.P 16(R6), F19
	FMOVQ.P 16(R7), F20
	FMOVQ.P 16(R8), F21
	FMOVQ.P 16(R9), F22
	FMOVQ.P 16(R10), F23
	FMOVQ.P 16(R11), F24
	VFMLA   V16.S4, V17.S4, V0.S4
	VFMLA   V16.S4, V18.S4, V1.S4
	VFMLA   V16.S4, V19.S4, V2.S4
	VFMLA   V16.S4, V20.S4, V3.S4
	VFMLA   V16.S4, V21.S4, V4.S4
	VFMLA   V16.S4, V22.S4, V5.S4
	VFMLA   V16.S4, V23.S4, V6.S4
	VFMLA   V16.S4, V24.S4, V7.S4
	SUBS    $4, R4
	BGT     inner

	// Pairwise additions add the lanes of eight sums.
	FADDP(0, 1, 0)
	FADDP(2, 3, 2)
	FADDP(4, 5, 4)
	FADDP(6, 7, 6)
	FADDP(0, 2, 0)
	FADDP(4, 6, 1)
	VST1 [V0.S4, V1.S4], (R0)
	RET

// func copyNEON(dst, src unsafe.Pointer, stride, k, width int)
TEXT ·copyNEON(SB), NOSPLIT, $0-40
	MOVD dst+0(FP), R0
	MOVD src+8(FP), R1
	MOVD stride+16(FP), R2
	MOVD k+24(FP), R3
	MOVD width+32(FP), R4
	CMP  $8, R4
	BEQ  two

three:
	VLD1   (R1), [V0.S4, V1.S4, V2.S4]
	ADD    R2, R1
	VST1.P [V0.S4, V1.S4, V2.S4], 48(R0)
	SUBS   $1, R3
	BNE    three
	RET

two:
	VLD1   (R1), [V0.S4, V1.S4]
	ADD    R2, R1
	VST1.P [V0.S4, V1.S4], 32(R0)
	SUBS   $1, R3
	BNE    two
	RET

// func transposeNEON(dst unsafe.Pointer, ldd int, src unsafe.Pointer, lds, k int)
TEXT ·transposeNEON(SB), NOSPLIT, $0-40
	MOVD dst+0(FP), R0
	MOVD ldd+8(FP), R1
	MOVD src+16(FP), R2
	MOVD lds+24(FP), R3
	MOVD k+32(FP), R4
	ADD  R3, R2, R5
	ADD  R3, R5, R6
	ADD  R3, R6, R7

block:
	FMOVQ.P 16(R2), F0
	FMOVQ.P 16(R5), F1
	FMOVQ.P 16(R6), F2
	FMOVQ.P 16(R7), F3
	VZIP1   V2.S4, V0.S4, V4.S4
	VZIP2   V2.S4, V0.S4, V5.S4
	VZIP1   V3.S4, V1.S4, V6.S4
	VZIP2   V3.S4, V1.S4, V7.S4
	VZIP1   V6.S4, V4.S4, V0.S4
	VZIP2   V6.S4, V4.S4, V1.S4
	VZIP1   V7.S4, V5.S4, V2.S4
	VZIP2   V7.S4, V5.S4, V3.S4
	FMOVQ   F0, (R0)
	ADD     R1, R0
	FMOVQ   F1, (R0)
	ADD     R1, R0
	FMOVQ   F2, (R0)
	ADD     R1, R0
	FMOVQ   F3, (R0)
	ADD     R1, R0
	SUBS    $4, R4
	BGT     block
	RET
