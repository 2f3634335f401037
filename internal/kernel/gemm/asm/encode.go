package main

import (
	"encoding/binary"
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/ir"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// The assembler of Go has no AMX instructions, and no conversions to bfloat16 or products of
// bfloat16 numbers. The functions of this file emit their machine code, with the instruction in the
// syntax of Intel as a comment. The encodings are those of the Intel Software Developer's Manual,
// volume 2. TestEncodings compares them with the assembler of LLVM.

// instruction is the machine code of an instruction and its text in the syntax of Intel.
type instruction struct {
	text string
	code []byte
}

// emit adds the instruction to the function. isa is the extension that it needs.
func (i instruction) emit(isa string) {
	Comment(i.text)
	data := func(opcode string, v Op) {
		Instruction(&ir.Instruction{Opcode: opcode, Operands: []Op{v}, ISA: []string{isa}})
	}
	code := i.code
	for ; len(code) >= 4; code = code[4:] {
		data("LONG", U32(binary.LittleEndian.Uint32(code)))
	}
	for _, b := range code {
		data("BYTE", U8(b))
	}
}

// The operand-size prefixes of VEX and EVEX.
const (
	noPrefix = 0
	prefixF3 = 2
	prefixF2 = 3
)

// number returns the number of a register in machine code.
func number(r Physical) byte { return byte(r.PhysicalIndex()) }

// flag returns 1 if bit n of r is 0. VEX and EVEX store the high bits of registers inverted.
func flag(r, n byte) byte { return ^r >> n & 1 }

// vex encodes an instruction of the opcode map 0F38 with the bytes after the prefix. index and base
// are the numbers of the registers of the address, and vvvv is the number of the third register.
func vex(prefix, vvvv, index, base byte, rest ...byte) []byte {
	return append([]byte{0xc4, 0x80 | flag(index, 3)<<6 | flag(base, 3)<<5 | 2, ^vvvv&15<<3 | prefix}, rest...)
}

// evex encodes an instruction of the opcode map 0F38 on three registers of 512 bits.
func evex(mnemonic string, prefix, opcode byte, dst, a, b VecPhysical) instruction {
	d, x, y := number(dst), number(a), number(b)
	return instruction{
		fmt.Sprintf("%s zmm%d, zmm%d, zmm%d", mnemonic, d, x, y),
		[]byte{0x62, flag(d, 3)<<7 | flag(y, 4)<<6 | flag(y, 3)<<5 | flag(d, 4)<<4 | 2,
			^x&15<<3 | 4 | prefix, 0x40 | flag(x, 4)<<3, opcode, 0xc0 | d&7<<3 | y&7},
	}
}

// tmm is a tile register, 0 to 7.
type tmm byte

// tileAddress encodes an instruction with a tile and the rows at base, base+stride, and so on. disp
// is added to all addresses.
func tileAddress(prefix byte, t tmm, base, stride GPPhysical, disp int32) []byte {
	b, x := number(base), number(stride)
	return binary.LittleEndian.AppendUint32(vex(prefix, 0, x, b, 0x4b, 0x80|byte(t)<<3|4, x&7<<3|b&7), uint32(disp))
}

// rows returns the text of the operand of tileAddress.
func rows(base, stride GPPhysical, disp int32) string {
	return fmt.Sprintf("[%s + %s + %d]", name(base), name(stride), disp)
}

// name returns the name of a 64-bit register in the syntax of Intel.
func name(r GPPhysical) string {
	return [...]string{"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"}[number(r)]
}

func tileLoad(t tmm, base, stride GPPhysical, disp int32) instruction {
	return instruction{fmt.Sprintf("tileloadd tmm%d, %s", t, rows(base, stride, disp)), tileAddress(prefixF2, t, base, stride, disp)}
}

func tileStore(base, stride GPPhysical, disp int32, t tmm) instruction {
	return instruction{fmt.Sprintf("tilestored %s, tmm%d", rows(base, stride, disp), t), tileAddress(prefixF3, t, base, stride, disp)}
}

func tileZero(t tmm) instruction {
	return instruction{fmt.Sprintf("tilezero tmm%d", t), vex(prefixF2, 0, 0, 0, 0x49, 0xc0|byte(t)<<3)}
}

// tileProduct adds the product of the tiles a and b to the tile sum.
func tileProduct(sum, a, b tmm) instruction {
	return instruction{fmt.Sprintf("tdpbf16ps tmm%d, tmm%d, tmm%d", sum, a, b), vex(prefixF3, byte(b), 0, byte(a), 0x5c, 0xc0|byte(sum)<<3|byte(a))}
}

// loadTileConfig reads the 64 bytes at base. base is one of the first eight registers, but not RSP
// or RBP.
func loadTileConfig(base GPPhysical) instruction {
	return instruction{fmt.Sprintf("ldtilecfg [%s]", name(base)), vex(noPrefix, 0, 0, 0, 0x49, number(base))}
}

func tileRelease() instruction {
	return instruction{"tilerelease", vex(noPrefix, 0, 0, 0, 0x49, 0xc0)}
}

// toBFloat16 rounds 32 float32s to the nearest bfloat16. The low half of dst gets those of low, the
// high half those of high.
func toBFloat16(dst, high, low VecPhysical) instruction {
	return evex("vcvtne2ps2bf16", prefixF2, 0x72, dst, high, low)
}

// addDotProducts multiplies the two bfloat16s in each lane of a by those of b, and adds both
// products to the float32 in this lane of sum.
func addDotProducts(sum, a, b VecPhysical) instruction {
	return evex("vdpbf16ps", prefixF3, 0x52, sum, a, b)
}
