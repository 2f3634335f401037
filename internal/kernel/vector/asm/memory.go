package main

import (
	"math"
	"slices"
	"strings"

	"github.com/mmcloughlin/avo/attr"
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// constant is a constant of 32 bits in memory. It is stored 8 times to fill an AVX2 vector. AVX-512
// broadcasts the first copy.
type constant struct {
	Mem
	bits uint32
}

// constants lists the constants in use.
var constants []uint32

// bits returns the constant with the bits v.
func bits(v uint32) constant {
	i := slices.Index(constants, v)
	if i < 0 {
		i = len(constants)
		constants = append(constants, v)
	}
	return constant{NewDataAddr(NewStaticSymbol("constants"), 32*i), v}
}

// float returns the constant with the value v.
func float(v float32) constant { return bits(math.Float32bits(v)) }

// emitConstants writes the table of the constants.
func emitConstants() {
	GLOBL("constants", attr.RODATA|attr.NOPTR)
	for i, v := range constants {
		for j := range 8 {
			DATA(32*i+4*j, U32(v))
		}
	}
}

// lane is the table of lane numbers 0 to 63, for the masks of AVX2.
var lane Mem

// emitLanes writes the table lane.
func emitLanes() {
	lane = GLOBL("lane", attr.RODATA|attr.NOPTR)
	for i := range 64 {
		DATA(4*i, U32(i))
	}
}

// elementBytes maps a Go type to the size of an element in bytes.
var elementBytes = map[string]int{"float32": 4, "int32": 4, "uint32": 4, "uint16": 2, "uint8": 1, "bool": 1}

// slice is a parameter that is a slice: the address of its first element and the size of an element
// in bytes.
type slice struct {
	base reg.Register
	size int
}

// slices loads the addresses of the slice parameters. names has the form that [params] takes.
func (k *kernel) slices(names []string) map[string]slice {
	all := map[string]slice{}
	for _, s := range names {
		name, typ, typed := strings.Cut(s, " ")
		if !typed {
			typ = "float32"
		}
		all[name] = slice{Load(Param(name).Base(), GP64()), elementBytes[typ]}
	}
	return all
}

// at returns the memory operand of the vector that starts at element index + offset.
func (s slice) at(index reg.Register, offset int) Mem {
	return Mem{Base: s.base, Index: index, Scale: uint8(s.size), Disp: s.size * offset}
}

// load reads a vector of elements of the given size in bytes. Lanes outside of the tail are zero.
// Elements of less than 32 bits fill only the low part of the register.
func (k *kernel) load(m Mem, size int) vec {
	r := k.reg()
	switch {
	case size == 4 && k.tail == nil:
		VMOVUPS(m, r)
	case size == 4 && k.wide:
		VMOVUPS_Z(m, k.tail, r)
	case size == 4:
		VMASKMOVPS(m, k.tail, r)
	case size == 2 && k.tail == nil && k.wide:
		VMOVDQU(m, r.AsY())
	case size == 2 && k.wide:
		VMOVDQU16_Z(m, k.tail, r.AsY())
	case size == 2:
		VMOVDQU(m, r.AsX())
	case k.tail == nil && k.wide:
		VMOVDQU(m, r.AsX())
	case k.wide:
		VMOVDQU8_Z(m, k.tail, r.AsX())
	default:
		VMOVQ(m, r.AsX())
	}
	return r
}

// store writes a vector of elements of the given size in bytes. It writes only the lanes of the
// tail.
func (k *kernel) store(r vec, m Mem, size int) {
	switch {
	case size == 4 && k.tail == nil:
		VMOVUPS(r, m)
	case size == 4 && k.wide:
		VMOVUPS(r, k.tail, m)
	case size == 4:
		VMASKMOVPS(r, k.tail, m)
	case size == 2 && k.tail == nil && k.wide:
		VMOVDQU(r.AsY(), m)
	case size == 2 && k.wide:
		VMOVDQU16(r.AsY(), k.tail, m)
	case size == 2:
		VMOVDQU(r.AsX(), m)
	case k.tail == nil && k.wide:
		VMOVDQU(r.AsX(), m)
	case k.wide:
		VMOVDQU8(r.AsX(), k.tail, m)
	default:
		VMOVQ(r.AsX(), m)
	}
}
