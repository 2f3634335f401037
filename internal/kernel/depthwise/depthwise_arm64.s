#include "textflag.h"

// Pixel j has its 16 sums in V(4j) to V(4j+3). A pixel of the source is in V16 to V19, and the weights
// of a tap are in V20 to V23.

#define ZERO4(a, b, c, d) \
	VEOR a.B16, a.B16, a.B16 \
	VEOR b.B16, b.B16, b.B16 \
	VEOR c.B16, c.B16, c.B16 \
	VEOR d.B16, d.B16, d.B16

#define PIXEL(a, b, c, d) \
	VLD1.P 64(R10), [V16.S4, V17.S4, V18.S4, V19.S4] \
	VFMLA  V16.S4, V20.S4, a.S4 \
	VFMLA  V17.S4, V21.S4, b.S4 \
	VFMLA  V18.S4, V22.S4, c.S4 \
	VFMLA  V19.S4, V23.S4, d.S4

// func fourNEON(dst unsafe.Pointer, dstCol int, src, kernel, offsets unsafe.Pointer, taps, run int, add bool)
TEXT ·fourNEON(SB), NOSPLIT, $0-57
	MOVD  dst+0(FP), R0
	MOVD  dstCol+8(FP), R1
	MOVD  src+16(FP), R2
	MOVD  kernel+24(FP), R3
	MOVD  offsets+32(FP), R4
	MOVD  taps+40(FP), R5
	MOVD  run+48(FP), R6
	MOVBU add+56(FP), R7
	CBNZ  R7, previous
	ZERO4(V0, V1, V2, V3)
	ZERO4(V4, V5, V6, V7)
	ZERO4(V8, V9, V10, V11)
	ZERO4(V12, V13, V14, V15)
	B     tap

previous:
	MOVD R0, R8
	VLD1 (R8), [V0.S4, V1.S4, V2.S4, V3.S4]
	ADD  R1, R8
	VLD1 (R8), [V4.S4, V5.S4, V6.S4, V7.S4]
	ADD  R1, R8
	VLD1 (R8), [V8.S4, V9.S4, V10.S4, V11.S4]
	ADD  R1, R8
	VLD1 (R8), [V12.S4, V13.S4, V14.S4, V15.S4]

tap:
	MOVD.P 8(R4), R9
	ADD    R2, R9
	MOVD   R6, R11

neighbour:
	VLD1.P 64(R3), [V20.S4, V21.S4, V22.S4, V23.S4]
	MOVD   R9, R10
	PIXEL(V0, V1, V2, V3)
	PIXEL(V4, V5, V6, V7)
	PIXEL(V8, V9, V10, V11)
	PIXEL(V12, V13, V14, V15)
	ADD    $64, R9
	SUBS   $1, R11
	BNE    neighbour
	SUBS   $1, R5
	BNE    tap
	VST1   [V0.S4, V1.S4, V2.S4, V3.S4], (R0)
	ADD    R1, R0
	VST1   [V4.S4, V5.S4, V6.S4, V7.S4], (R0)
	ADD    R1, R0
	VST1   [V8.S4, V9.S4, V10.S4, V11.S4], (R0)
	ADD    R1, R0
	VST1   [V12.S4, V13.S4, V14.S4, V15.S4], (R0)
	RET

// func oneNEON(dst, src, kernel, offsets unsafe.Pointer, taps, run int, add bool)
TEXT ·oneNEON(SB), NOSPLIT, $0-49
	MOVD  dst+0(FP), R0
	MOVD  src+8(FP), R2
	MOVD  kernel+16(FP), R3
	MOVD  offsets+24(FP), R4
	MOVD  taps+32(FP), R5
	MOVD  run+40(FP), R6
	MOVBU add+48(FP), R7
	CBNZ  R7, previous
	ZERO4(V0, V1, V2, V3)
	B     tap

previous:
	VLD1 (R0), [V0.S4, V1.S4, V2.S4, V3.S4]

tap:
	MOVD.P 8(R4), R10
	ADD    R2, R10
	MOVD   R6, R11

neighbour:
	VLD1.P 64(R3), [V20.S4, V21.S4, V22.S4, V23.S4]
	PIXEL(V0, V1, V2, V3)
	SUBS   $1, R11
	BNE    neighbour
	SUBS   $1, R5
	BNE    tap
	VST1   [V0.S4, V1.S4, V2.S4, V3.S4], (R0)
	RET
