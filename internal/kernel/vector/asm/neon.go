package main

import (
	"bytes"
	"fmt"
	"log"
	"os"
	"slices"
	"strings"

	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// avo generates code for amd64 only. This file generates code for NEON, the vectors of arm64. The
// methods of kernel call it, so the functions for NEON have the same arithmetic as those for AVX.
//
// The assembler of Go has no floating-point instructions on vectors, except the multiply-add. So
// each vector instruction is written as a word of machine code, with the instruction as a comment.
// The encodings are those of the Arm Architecture Reference Manual, section C7. TestNEON compares
// them with the assembler of LLVM.

// encoding is a vector instruction: the machine code with register 0 as every operand, and its name
// and the arrangement of its operands in the syntax of Arm.
type encoding struct {
	code        uint32
	name, shape string
}

// Instructions with two sources.
var (
	fadd   = encoding{0x4e20d400, "fadd", "4s"}
	fsub   = encoding{0x4ea0d400, "fsub", "4s"}
	fmul   = encoding{0x6e20dc00, "fmul", "4s"}
	fdiv   = encoding{0x6e20fc00, "fdiv", "4s"}
	fmax   = encoding{0x4e20f400, "fmax", "4s"}
	fmin   = encoding{0x4ea0f400, "fmin", "4s"}
	fcmeq  = encoding{0x4e20e400, "fcmeq", "4s"}
	fcmgt  = encoding{0x6ea0e400, "fcmgt", "4s"}
	faddp  = encoding{0x6e20d400, "faddp", "4s"}
	fmaxp  = encoding{0x6e20f400, "fmaxp", "4s"}
	fminp  = encoding{0x6ea0f400, "fminp", "4s"}
	andV   = encoding{0x4e201c00, "and", "16b"}
	orrV   = encoding{0x4ea01c00, "orr", "16b"}
	eorV   = encoding{0x6e201c00, "eor", "16b"}
	addV   = encoding{0x4ea08400, "add", "4s"}
	subV   = encoding{0x6ea08400, "sub", "4s"}
	cmhs   = encoding{0x6ea03c00, "cmhs", "4s"}
	uzp1   = encoding{0x4e801800, "uzp1", "4s"}
	uzp2   = encoding{0x4e805800, "uzp2", "4s"}
	zip1   = encoding{0x4e803800, "zip1", "4s"}
	zip2   = encoding{0x4e807800, "zip2", "4s"}
	umull  = encoding{0x2ea0c000, "umull", "2d 2s 2s"}
	umull2 = encoding{0x6ea0c000, "umull2", "2d 4s 4s"}

	// The following instructions also read their destination.
	fmla = encoding{0x4e20cc00, "fmla", "4s"}
	fmls = encoding{0x4ea0cc00, "fmls", "4s"}
	bsl  = encoding{0x6e601c00, "bsl", "16b"} // takes the bits of the first source where dst is 1
)

// Instructions with one source.
var (
	fneg   = encoding{0x6ea0f800, "fneg", "4s"}
	fsqrt  = encoding{0x6ea1f800, "fsqrt", "4s"}
	frintn = encoding{0x4e218800, "frintn", "4s"}
	fcvtns = encoding{0x4e21a800, "fcvtns", "4s"}
	scvtf  = encoding{0x4e21d800, "scvtf", "4s"}
	ucvtf  = encoding{0x6e21d800, "ucvtf", "4s"}
	notV   = encoding{0x6e205800, "mvn", "16b"}
	dup    = encoding{0x4e040400, "dup", "4s s[0]"}
	ext8   = encoding{0x6e004000, "ext", "16b #8"} // swaps the halves of a register
)

// shiftLeft returns the instruction that shifts to the left by n bits.
func shiftLeft(n int) encoding {
	return encoding{0x4f005400 | uint32(32+n)<<16, "shl", fmt.Sprintf("4s #%d", n)}
}

// shiftRight returns the instruction that shifts to the right by n bits and keeps the sign.
func shiftRight(n int) encoding {
	return encoding{0x4f000400 | uint32(64-n)<<16, "sshr", fmt.Sprintf("4s #%d", n)}
}

// text returns the instruction with the given registers in the syntax of Arm, the destination
// first.
func (e encoding) text(registers ...int) string {
	shapes := strings.Fields(e.shape)
	var operands []string
	for i, r := range registers {
		shape := shapes[0]
		if i < len(shapes) && !strings.HasPrefix(shapes[i], "#") {
			shape = shapes[i]
		}
		operands = append(operands, fmt.Sprintf("v%d.%s", r, shape))
	}
	if last := shapes[len(shapes)-1]; last[0] == '#' {
		operands = append(operands, last)
	}
	return e.name + " " + strings.Join(operands, ", ")
}

// word returns the machine code of the instruction with the given registers.
func (e encoding) word(registers ...int) uint32 {
	w := e.code
	for i, r := range registers {
		w |= uint32(r) << [...]int{0, 5, 16}[i]
	}
	return w
}

// line is one line of a NEON function.
type line struct {
	text string // Go assembly; "V?" and "F?" stand for the vector registers in order
	op   encoding
	regs []vec // the destination first, unless the line is a store
	// writes says that regs[0] is written, and reads that it is read too.
	writes, reads bool
	loop          int // +1: a loop begins, -1: it ends
}

// neon holds one function for NEON.
type neon struct {
	name, signature string
	lines           []line
	// names maps a register to the register that holds its present value. A multiply-add destroys
	// its addend, so its result gets a new register.
	names   map[reg.ID]vec
	offsets map[string]int // position of each parameter
	args    int            // size of the parameters and results in bytes
	general int            // number of general registers in use
	// hoisted maps a constant to the register that holds it during the whole function. Lines that
	// load such constants are inserted at the line prologue. 0: nothing is hoisted.
	hoisted  map[[4]uint32]vec
	prologue int
	labels   int
}

// neonFunctions lists the functions in the order of the file.
var neonFunctions []*neon

// neonConstants lists the constants of the NEON functions. Each has 16 bytes.
var neonConstants [][4]uint32

// neonKernel returns a kernel that generates a NEON function.
func neonKernel(name string, slices, scalars []string, result bool) *kernel {
	f := &neon{name: name + "NEON", names: map[reg.ID]vec{}, offsets: map[string]int{}}
	for _, s := range slices {
		name, _, _ := strings.Cut(s, " ")
		f.offsets[name] = f.args
		f.args += 24
	}
	for _, s := range scalars {
		name, typ, _ := strings.Cut(s, " ")
		size := 8
		if typ == "" || typ == "float32" || typ == "uint32" {
			size = 4
		}
		f.args = (f.args + size - 1) / size * size
		f.offsets[name] = f.args
		f.args += size
	}
	f.signature = "(" + params(slices, scalars) + ")"
	if result {
		f.args = (f.args + 7) / 8 * 8
		f.offsets["ret"] = f.args
		f.args += 4
		f.signature += " float32"
	}
	neonFunctions = append(neonFunctions, f)
	return &kernel{lanes: 4, neon: f}
}

// gp returns a new general register. A function has at most 16.
func (f *neon) gp() string {
	if f.general == 16 {
		log.Fatalf("generating %s: too many general registers", f.name)
	}
	f.general++
	return fmt.Sprintf("R%d", f.general-1)
}

// constantBase is the register that holds the address of the constants. Go reserves R16 to R18 and
// R26 to R28.
const constantBase = "R25"

// raw writes a line without vector registers.
func (f *neon) raw(format string, args ...any) {
	f.lines = append(f.lines, line{text: fmt.Sprintf(format, args...)})
}

// label returns a new label.
func (f *neon) label() string {
	f.labels++
	return fmt.Sprintf("l%d", f.labels)
}

// loop writes body between a label and a branch back to it. Registers that are set before the loop
// and read in it keep their values.
func (f *neon) loop(branch string, body func()) {
	l := f.label()
	f.lines = append(f.lines, line{text: l + ":", loop: 1})
	body()
	f.lines = append(f.lines, line{text: "\t" + strings.ReplaceAll(branch, "LOOP", l), loop: -1})
}

// param loads an integer parameter or a part of a slice, such as dst_len, into a new register.
func (f *neon) param(name string) string {
	r := f.gp()
	base, part, _ := strings.Cut(name, "_")
	offset := f.offsets[base]
	if part == "len" {
		offset += 8
	}
	f.raw("\tMOVD %s+%d(FP), %s", name, offset, r)
	return r
}

// newVec returns a new vector register.
func (f *neon) newVec() vec { return newXMM() }

// value returns the register that holds the present value of v.
func (f *neon) value(v vec) vec {
	for {
		n, ok := f.names[v.ID()]
		if !ok {
			return v
		}
		v = n
	}
}

// scalar broadcasts a parameter of 32 bits.
func (f *neon) scalar(name string) vec {
	name, _, _ = strings.Cut(name, " ")
	r := f.newVec()
	f.lines = append(f.lines, line{text: fmt.Sprintf("\tFMOVS %s+%d(FP), F?", name, f.offsets[name]), regs: []vec{r}, writes: true})
	return f.op(dup, r)
}

// maxHoisted is the largest number of constants that stay in registers.
const maxHoisted = 12

// hoist lets the code from here on read constants from registers that are loaded here.
func (f *neon) hoist() { f.hoisted, f.prologue = map[[4]uint32]vec{}, len(f.lines) }

// source returns a register with the value of an operand. Nothing may write to it if the operand is
// a constant.
func (f *neon) source(o Op) vec {
	c, ok := o.(constant)
	if !ok {
		return f.value(o.(vec))
	}
	v := [4]uint32{c.bits, c.bits, c.bits, c.bits}
	if r, ok := f.hoisted[v]; ok {
		return r
	}
	if f.hoisted == nil || len(f.hoisted) == maxHoisted {
		return f.constant(v)
	}
	r := f.constant(v)
	load := f.lines[len(f.lines)-1]
	f.lines = slices.Insert(f.lines[:len(f.lines)-1], f.prologue, load)
	f.prologue++
	f.hoisted[v] = r
	return r
}

// broadcast returns a name for the value of a constant. mulAdd may give the name another value.
func (f *neon) broadcast(c constant) vec {
	r := f.newVec()
	f.names[r.ID()] = f.source(c)
	return r
}

// written returns the register of dst, which an instruction writes. It must not hold a constant.
func (f *neon) written(dst vec) vec {
	r := f.value(dst)
	for _, h := range f.hoisted {
		if h == r {
			log.Fatalf("generating %s: an instruction overwrites a constant", f.name)
		}
	}
	return r
}

// fresh loads a constant into a new register.
func (f *neon) fresh(c constant) vec { return f.constant([4]uint32{c.bits, c.bits, c.bits, c.bits}) }

// constant loads four numbers into a new register.
func (f *neon) constant(c [4]uint32) vec {
	i := slices.Index(neonConstants, c)
	if i < 0 {
		i = len(neonConstants)
		neonConstants = append(neonConstants, c)
	}
	r := f.newVec()
	f.lines = append(f.lines, line{text: fmt.Sprintf("\tFMOVQ %d(%s), F?", 16*i, constantBase), regs: []vec{r}, writes: true})
	return r
}

// table adds the rows to the constants. It returns the offset of the first row in bytes.
func (f *neon) table(rows [][4]uint32) int {
	at := 16 * len(neonConstants)
	neonConstants = append(neonConstants, rows...)
	return at
}

// op writes an instruction. The result is in a new register.
func (f *neon) op(e encoding, sources ...Op) vec {
	r := f.newVec()
	regs := []vec{r}
	for _, s := range sources {
		regs = append(regs, f.source(s))
	}
	f.lines = append(f.lines, line{op: e, regs: regs, writes: true})
	return r
}

// update writes an instruction that reads and writes dst.
func (f *neon) update(e encoding, dst vec, sources ...Op) {
	regs := []vec{f.written(dst)}
	for _, s := range sources {
		regs = append(regs, f.source(s))
	}
	f.lines = append(f.lines, line{op: e, regs: regs, writes: true, reads: true})
}

// set writes an instruction with a new result for the register dst, which exists already.
func (f *neon) set(e encoding, dst vec, sources ...Op) {
	regs := []vec{f.written(dst)}
	for _, s := range sources {
		regs = append(regs, f.source(s))
	}
	f.lines = append(f.lines, line{op: e, regs: regs, writes: true})
}

// copy returns a new register with the value of the operand.
func (f *neon) copy(o Op) vec {
	if c, ok := o.(constant); ok {
		return f.fresh(c)
	}
	return f.op(orrV, o, o)
}

// zero returns a new register of zeros.
func (f *neon) zero() vec {
	r := f.newVec()
	f.lines = append(f.lines, line{text: "\tVEOR V?.B16, V?.B16, V?.B16", regs: []vec{r, r, r}, writes: true})
	return r
}

// load reads a vector from an operand of the assembler, such as "16(R0)". With suffix ".P" the
// address register advances.
func (f *neon) load(from, suffix string) vec {
	r := f.newVec()
	f.lines = append(f.lines, line{text: fmt.Sprintf("\tFMOVQ%s %s, F?", suffix, from), regs: []vec{r}, writes: true})
	return r
}

// store writes a vector.
func (f *neon) store(v vec, to, suffix string) {
	f.lines = append(f.lines, line{text: fmt.Sprintf("\tFMOVQ%s F?, %s", suffix, to), regs: []vec{f.value(v)}})
}

// loadPart reads the first count lanes at the address base, 1 <= count <= 3. The other lanes are 0.
// scratch is a general register.
func (f *neon) loadPart(base, count, scratch string) vec {
	r := f.zero()
	f.part(count, base, scratch, func(i int) {
		f.lines = append(f.lines, line{text: fmt.Sprintf("\tVLD1 (%s), V?.S[%d]", scratch, i), regs: []vec{r}, writes: true, reads: true})
	})
	return r
}

// storePart writes the first count lanes, 1 <= count <= 3.
func (f *neon) storePart(v vec, base, count, scratch string) {
	f.part(count, base, scratch, func(i int) {
		f.lines = append(f.lines, line{text: fmt.Sprintf("\tVST1 V?.S[%d], (%s)", i, scratch), regs: []vec{f.value(v)}})
	})
}

// part calls access for the lanes 0 to 2. The written code skips lanes from count on.
func (f *neon) part(count, base, scratch string, access func(lane int)) {
	done := f.label()
	f.raw("\tMOVD %s, %s", base, scratch)
	access(0)
	for i := 1; i < 3; i++ {
		f.raw("\tCMP $%d, %s", i+1, count)
		f.raw("\tBLT %s", done)
		f.raw("\tADD $4, %s", scratch)
		access(i)
	}
	f.raw("%s:", done)
}

// allocate chooses a vector register for every value. A value lives from its first to its last
// line. If a loop reads a value that was set before the loop, the value lives to the end of the
// loop. It returns the number of the register by ID, and removes copies whose source is not read
// again.
func (f *neon) allocate() map[reg.ID]int {
	first, last := map[reg.ID]int{}, map[reg.ID]int{}
	for i, l := range f.lines {
		for _, v := range l.regs {
			if _, ok := first[v.ID()]; !ok {
				first[v.ID()] = i
			}
			last[v.ID()] = i
		}
	}
	var starts []int
	for i, l := range f.lines {
		switch l.loop {
		case 1:
			starts = append(starts, i)
		case -1:
			start := starts[len(starts)-1]
			starts = starts[:len(starts)-1]
			for id := range last {
				if first[id] < start && start < last[id] && last[id] < i {
					last[id] = i
				}
			}
		}
	}
	number := map[reg.ID]int{}
	var user [32]reg.ID
	var used [32]bool
	for i := range f.lines {
		l := &f.lines[i]
		for r := range user {
			if used[r] && last[user[r]] < i {
				used[r] = false
			}
		}
		if len(l.regs) == 0 {
			continue
		}
		// The sources that end here free their registers for the result.
		sources := l.regs
		if l.writes {
			sources = l.regs[1:]
		}
		for _, s := range sources {
			if first[s.ID()] == i && !(l.writes && s.ID() == l.regs[0].ID()) {
				log.Fatalf("generating %s: an instruction reads a register that nothing has set; a method of kernel has no form for NEON", f.name)
			}
		}
		take := func(id reg.ID, r int) { number[id], user[r], used[r] = r, id, true }
		if l.writes && first[l.regs[0].ID()] == i {
			if l.op == orrV && l.regs[1] == l.regs[2] && last[l.regs[1].ID()] == i {
				take(l.regs[0].ID(), number[l.regs[1].ID()])
				l.text, l.regs, l.op = "", nil, encoding{} // the copy is not needed
				continue
			}
			if !l.reads && l.op.code != 0 {
				for _, s := range sources {
					if last[s.ID()] == i && s.ID() != l.regs[0].ID() {
						used[number[s.ID()]] = false
					}
				}
			}
			r := slices.Index(used[:], false)
			if r < 0 {
				log.Fatalf("generating %s: more than 32 vector registers are live at line %d", f.name, i)
			}
			take(l.regs[0].ID(), r)
		}
	}
	return number
}

// write writes the function in Go assembly.
func (f *neon) write(b *bytes.Buffer) {
	number := f.allocate()
	fmt.Fprintf(b, "\n// func %s%s\nTEXT ·%s(SB), NOSPLIT, $0-%d\n\tMOVD $constants<>(SB), %s\n", f.name, f.signature, f.name, f.args, constantBase)
	for _, l := range f.lines {
		var n []int
		for _, v := range l.regs {
			n = append(n, number[v.ID()])
		}
		switch {
		case l.op.code != 0:
			fmt.Fprintf(b, "\tWORD $0x%08x // %s\n", l.op.word(n...), l.op.text(n...))
		case l.text != "":
			text := l.text
			for _, r := range n {
				i := strings.Index(text, "?")
				text = fmt.Sprintf("%s%d%s", text[:i], r, text[i+1:])
			}
			fmt.Fprintln(b, text)
		}
	}
	b.WriteString("\tRET\n")
}

// writeNEON writes the file with the NEON functions and appends their declarations to stubs.
func writeNEON(file string, stubs *bytes.Buffer) {
	var b, code bytes.Buffer
	for _, f := range neonFunctions {
		f.write(&code)
		fmt.Fprintf(stubs, "\n//go:noescape\nfunc %s%s\n", f.name, f.signature)
	}
	b.WriteString("// Code generated by asm. DO NOT EDIT.\n\n#include \"textflag.h\"\n\n")
	for i, c := range neonConstants {
		for j := range 2 {
			fmt.Fprintf(&b, "DATA constants<>+%d(SB)/8, $0x%016x\n", 16*i+8*j, uint64(c[2*j])|uint64(c[2*j+1])<<32)
		}
	}
	fmt.Fprintf(&b, "GLOBL constants<>(SB), RODATA|NOPTR, $%d\n", 16*len(neonConstants))
	b.Write(code.Bytes())
	if err := os.WriteFile(file, b.Bytes(), 0o666); err != nil {
		log.Fatal(err)
	}
}
