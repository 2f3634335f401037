package main

import (
	"fmt"
	"slices"
	"strings"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// params returns the parameters of a Go signature. Each slice and each scalar is written as "name
// type", or as "name" if its type is float32.
func params(slice, scalar []string) string {
	var list []string
	for _, s := range slice {
		name, typ, typed := strings.Cut(s, " ")
		if !typed {
			typ = "float32"
		}
		list = append(list, fmt.Sprintf("%s []%s", name, typ))
	}
	for _, s := range scalar {
		name, typ, typed := strings.Cut(s, " ")
		if !typed {
			typ = "float32"
		}
		list = append(list, name+" "+typ)
	}
	return strings.Join(list, ", ")
}

// elementwise writes a function that computes dst from slices of equal length and float32 scalars.
// names lists the slices, and the first name is dst. inputs lists the slices that are read, which
// may include dst. portable is the Go expression for element i of dst. The function processes one
// vector at a time, and a mask covers a partial last vector. AVX2 has no masks for elements of less
// than 32 bits. With AVX2, a function with such elements leaves the partial vector to its Go
// function.
func elementwise(name string, names, inputs, scalars []string, portable string, body func(k *kernel, in, s []vec) vec) {
	wrappers = append(wrappers, wrapper{kernel: name, slices: names, scalar: scalars, formula: portable, portable: portable})
	narrow := slices.ContainsFunc(names, narrow)
	if !narrow {
		defer neonElementwise(name, names, inputs, scalars, body)
	}
	begin(name, "("+params(names, scalars)+")", func(k *kernel) {
		pointers := k.slices(names)
		n := Load(Param("dst").Len(), GP64()).(reg.GPVirtual)
		var s []vec
		for _, name := range scalars {
			s = append(s, k.scalar(name))
		}
		dst := pointers["dst"]
		index := GP64()
		step := func() {
			var in []vec
			for _, name := range inputs {
				in = append(in, k.load(pointers[name].at(index, 0), pointers[name].size))
			}
			k.store(body(k, in, s), dst.at(index, 0), dst.size)
		}

		XORQ(index, index)
		whole := GP64()
		MOVQ(n, whole)
		ANDQ(I32(-k.lanes), whole)
		JZ(LabelRef("tail"))
		Label("loop")
		step()
		ADDQ(Imm(uint64(k.lanes)), index)
		CMPQ(index, whole)
		JLT(LabelRef("loop"))

		Label("tail")
		if k.wide || !narrow {
			SUBQ(index, n)
			JZ(LabelRef("done"))
			k.tail = k.partial(n)
			step()
			Label("done")
		}
	})
}

// reduction writes a function that reduces slices of equal length to one number. start returns the
// initial value of an accumulator. body adds the vectors in, one of each slice, to the accumulator
// acc. join combines two accumulators. finish, if not nil, changes the final number. The
// accumulators have 64 lanes together, and element i is added to lane i mod 64.
func reduction(name string, names, scalars []string, start func(k *kernel) vec, body func(k *kernel, acc vec, in, s []vec), join func(a, b, dst Op), finish func(k *kernel, result vec)) {
	begin(name, "("+params(names, scalars)+") float32", func(k *kernel) {
		pointers := k.slices(names)
		n := Load(Param(names[0]).Len(), GP64()).(reg.GPVirtual)
		var s []vec
		for _, name := range scalars {
			s = append(s, k.scalar(name))
		}
		acc := make([]vec, 64/k.lanes)
		for i := range acc {
			acc[i] = start(k)
		}
		index := GP64()
		fold := func(j int) {
			var in []vec
			for _, name := range names {
				in = append(in, k.load(pointers[name].at(index, j*k.lanes), 4))
			}
			body(k, acc[j], in, s)
		}

		XORQ(index, index)
		whole := GP64()
		MOVQ(n, whole)
		ANDQ(I32(-64), whole)
		JZ(LabelRef("tail"))
		Label("loop")
		for j := range acc {
			fold(j)
		}
		ADDQ(Imm(64), index)
		CMPQ(index, whole)
		JLT(LabelRef("loop"))

		Label("tail")
		SUBQ(index, n)
		JZ(LabelRef("join"))
		k.partials(n, len(acc), fold)

		// Join groups of 16 lanes as (0+1)+(2+3), then halves until one number is left.
		Label("join")
		group := len(acc) / 4
		for i := range group {
			join(acc[group+i], acc[i], acc[i])
			join(acc[3*group+i], acc[2*group+i], acc[2*group+i])
			join(acc[2*group+i], acc[i], acc[i])
		}
		low := acc[0]
		y := YMM()
		if k.wide {
			VEXTRACTF64X4(Imm(1), low, y)
			join(y, low.AsY(), y)
		} else {
			join(acc[1], low, y)
		}
		x := XMM()
		VEXTRACTF128(Imm(1), y, x)
		join(y.AsX(), x, x)
		high := XMM()
		VMOVHLPS(x, x, high)
		join(high, x, x)
		VMOVSHDUP(x, high)
		join(high, x, x)
		if finish != nil {
			finish(k, x)
		}
		Store(x, ReturnIndex(0))
	})
}
