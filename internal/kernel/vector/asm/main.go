// Command asm generates three files of package vector: the assembly for AVX-512 and for AVX2 with
// FMA, the assembly for NEON, and the Go code that declares and calls both.
package main

import (
	"log"
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"

	"github.com/sptune/spt/internal/kernel/vector/internal/scalar"
)

func main() {
	log.SetFlags(0)
	emitLanes()
	tables()
	arithmetic()
	selections()
	conversions()
	reductions()
	norms()
	philox()
	transpose()
	attention()
	emitConstants()
	neonAddLanes()
	neonTranspose()
	neonAttention()
	Generate()
	writeWrappers()
}

// find returns the kernel of a row of the tables in package scalar. The program ends with an error
// if there is none.
func find[K any](kernels map[string]K, name string) K {
	k, ok := kernels[name]
	if !ok {
		log.Fatalf("generating the kernels of package scalar: the row %q has no kernel in asm/elementwise.go; add one", name)
	}
	return k
}

// tables writes the kernels of the rows of the tables in package scalar.
func tables() {
	for _, row := range scalar.Binaries {
		op := find(binaries, row.Name)
		call := "scalar." + title(row.Name)
		elementwise(row.Name, []string{"dst", "a", "b"}, []string{"a", "b"}, nil, call+"(a[i], b[i])", func(k *kernel, in, _ []vec) vec { return op(k, in[0], in[1]) })
		if row.Negated == "" {
			elementwise(row.Name+"Scalar", []string{"dst", "a"}, []string{"a"}, []string{"s"}, call+"(a[i], s)", func(k *kernel, in, s []vec) vec { return op(k, in[0], s[0]) })
		}
		if !row.Commutative {
			elementwise(row.Name+"From", []string{"dst", "a"}, []string{"a"}, []string{"s"}, call+"(s, a[i])", func(k *kernel, in, s []vec) vec { return op(k, s[0], in[0]) })
		}
	}
	for _, row := range scalar.Unaries {
		f := find(unaries, row.Name)
		elementwise(row.Name, []string{"dst", "x"}, []string{"x"}, nil, "scalar."+title(row.Name)+"(x[i])", func(k *kernel, in, _ []vec) vec { return f(k, in[0]) })
	}
	for _, row := range scalar.Comparisons {
		predicate := find(comparisons, row.Name)
		call := "scalar." + title(row.Name)
		elementwise(row.Name, []string{"dst bool", "a", "b"}, []string{"a", "b"}, nil, call+"(a[i], b[i])", func(k *kernel, in, _ []vec) vec {
			return k.bools(k.compare(predicate, in[0], in[1]))
		})
		elementwise(row.Name+"Scalar", []string{"dst bool", "a"}, []string{"a"}, []string{"s"}, call+"(a[i], s)", func(k *kernel, in, s []vec) vec {
			return k.bools(k.compare(predicate, in[0], s[0]))
		})
	}
}

// arithmetic writes the element-wise kernels that are not in the tables of package scalar.
func arithmetic() {
	elementwise("axpy", []string{"dst", "a"}, []string{"dst", "a"}, []string{"s"}, "dst[i] + s*a[i]", func(k *kernel, in, s []vec) vec {
		k.addMul(in[0], in[1], s[0])
		return in[0]
	})
	elementwise("fill", []string{"dst"}, nil, []string{"s"}, "s", func(_ *kernel, _, s []vec) vec { return s[0] })
	elementwise("expSubScalar", []string{"dst", "x"}, []string{"x"}, []string{"scale", "shift"}, "scalar.Exp(scale*x[i] - shift)", func(k *kernel, in, s []vec) vec {
		k.mulSub(in[0], s[0], s[1])
		return k.exp(in[0], true)
	})
	elementwise("gelu", []string{"dst", "x"}, []string{"x"}, nil, "scalar.GELU(x[i])", func(k *kernel, in, _ []vec) vec { return k.gelu(in[0]) })
	tabulated("scalar.NormalCDF()", "x[i] * t.At(x[i])")
	elementwise("geluTanh", []string{"dst", "x"}, []string{"x"}, nil, "scalar.GELUTanh(x[i])", func(k *kernel, in, _ []vec) vec { return k.geluTanh(in[0]) })
	elementwise("geluGrad", []string{"dst", "x", "dy"}, []string{"x", "dy"}, nil, "dy[i] * scalar.GELUDerivative(x[i])", func(k *kernel, in, _ []vec) vec {
		return k.mul(in[1], k.geluDerivative(in[0]))
	})
	tabulated("scalar.GELUSlope()", "dy[i] * t.At(x[i])")
}

// selections writes the kernels that choose between elements by a mask.
func selections() {
	elementwise("where", []string{"dst", "mask bool", "a", "b"}, []string{"mask", "a", "b"}, nil, "scalar.Choose(mask[i], a[i], b[i])", func(k *kernel, in, _ []vec) vec {
		return k.choose(k.lanesOf(in[0]), in[1], in[2])
	})
	elementwise("whereElseScalar", []string{"dst", "mask bool", "a"}, []string{"mask", "a"}, []string{"s"}, "scalar.Choose(mask[i], a[i], s)", func(k *kernel, in, s []vec) vec {
		return k.choose(k.lanesOf(in[0]), in[1], s[0])
	})
	elementwise("whereThenScalar", []string{"dst", "mask bool", "b"}, []string{"mask", "b"}, []string{"s"}, "scalar.Choose(mask[i], s, b[i])", func(k *kernel, in, s []vec) vec {
		return k.choose(k.lanesOf(in[0]), s[0], in[1])
	})
	elementwise("whereScalars", []string{"dst", "mask bool"}, []string{"mask"}, []string{"s", "t"}, "scalar.Choose(mask[i], s, t)", func(k *kernel, in, s []vec) vec {
		return k.choose(k.lanesOf(in[0]), s[0], s[1])
	})
}

// conversions writes the kernels that convert to float32.
func conversions() {
	convert := func(name, src, portable string, f func(k *kernel, x vec) vec) {
		elementwise(name, []string{"dst", "src " + src}, []string{"src"}, nil, portable, func(k *kernel, in, _ []vec) vec { return f(k, in[0]) })
	}
	convert("fromFloat16", "uint16", "scalar.FromFloat16(src[i])", func(k *kernel, x vec) vec {
		r := k.reg()
		VCVTPH2PS(k.half(x), r)
		return r
	})
	convert("fromBFloat16", "uint16", "bfloat16.FromBits(src[i]).Float32()", func(k *kernel, x vec) vec {
		r := k.reg()
		VPMOVZXWD(k.half(x), r)
		return k.left(16, r)
	})
	convert("fromUint8", "uint8", "float32(src[i])", func(k *kernel, x vec) vec {
		r := k.reg()
		VPMOVZXBD(x.AsX(), r)
		return k.unary(toFloat, r)
	})
	convert("fromInt32", "int32", "float32(src[i])", func(k *kernel, x vec) vec { return k.unary(toFloat, x) })
	convert("fromUint32", "uint32", "float32(src[i])", func(k *kernel, x vec) vec {
		if k.wide {
			return k.unary(operation{avx: VCVTUDQ2PS}, x)
		}
		if k.neon != nil {
			return k.neon.op(ucvtf, x)
		}
		// The conversion of both halves is exact. Their sum is rounded once.
		high := k.unary(toFloat, k.shift(VPSRLD, 16, x))
		k.mulAdd(high, k.broadcast(float(0x1p16)), k.unary(toFloat, k.and(x, bits(0xffff))))
		return high
	})
}

// reductions writes the kernels that reduce slices to numbers.
func reductions() {
	zero := (*kernel).zero
	add := func(a, b, dst Op) { VADDPS(a, b, dst) }
	sums := func(name string, names, scalars []string, body func(k *kernel, acc vec, in, s []vec)) {
		reduction(name, names, scalars, zero, body, add, nil)
		neonReduction(name, names, scalars, body)
	}
	sums("sum", []string{"a"}, nil, func(k *kernel, acc vec, in, _ []vec) { k.accumulate(acc, in[0]) })
	sums("dot", []string{"a", "b"}, nil, func(k *kernel, acc vec, in, _ []vec) { k.addMul(acc, in[0], in[1]) })
	sums("sumCentered2", []string{"x"}, []string{"mean"}, func(k *kernel, acc vec, in, s []vec) {
		d := k.present(k.sub(in[0], s[0]), k.zero)
		k.addMul(acc, d, d)
	})
	sums("centeredDot", []string{"dy", "x"}, []string{"mean"}, func(k *kernel, acc vec, in, s []vec) {
		k.addMul(acc, in[0], k.sub(in[1], s[0]))
	})
	extreme("maxOf", math.Inf(-1), VMAXPS)
	neonExtreme("maxOf", math.Inf(-1), fmax, fmaxp)
	extreme("minOf", math.Inf(1), VMINPS)
	neonExtreme("minOf", math.Inf(1), fmin, fminp)

	elementwise("addRows4", []string{"dst", "a", "b", "c", "d"}, []string{"dst", "a", "b", "c", "d"}, nil, "dst[i] + a[i] + b[i] + c[i] + d[i]", func(k *kernel, in, _ []vec) vec {
		return k.add(k.add(k.add(k.add(in[0], in[1]), in[2]), in[3]), in[4])
	})
}

// extreme writes the reduction by op, which is a maximum or a minimum. neutral is the neutral
// element of op. op ignores NaN in one operand, so the function records NaN separately.
func extreme(name string, neutral float64, op func(...Op)) {
	fill := func(k *kernel) vec { return k.broadcast(float(float32(neutral))) }
	reduction(name, []string{"a"}, nil, func(k *kernel) vec {
		if k.nan == nil && k.wide {
			m := K()
			KXORW(m, m, m)
			k.nan = m
		} else if k.nan == nil {
			k.nan = k.zero()
		}
		return fill(k)
	}, func(k *kernel, acc vec, in, _ []vec) {
		nan := k.compare(unordered, in[0], in[0])
		if k.wide {
			KORW(nan, k.nan, k.nan)
		} else {
			VORPS(nan, k.nan, k.nan)
		}
		op(k.present(in[0], func() vec { return fill(k) }), acc, acc)
	}, func(a, b, dst Op) { op(a, b, dst) }, func(k *kernel, x vec) {
		if k.wide {
			KORTESTW(k.nan, k.nan)
		} else {
			any := GP32()
			VMOVMSKPS(k.nan, any)
			TESTL(any, any)
		}
		JZ(LabelRef("numbers"))
		VMOVSS(float(float32(math.NaN())).Mem, x)
		Label("numbers")
	})
}

// norms writes the kernels of layer norm and its gradient.
func norms() {
	center := func(k *kernel, x vec, s []vec) vec { return k.mul(k.sub(x, s[0]), s[1]) }
	elementwise("normalize", []string{"dst", "x"}, []string{"x"}, []string{"mean", "rstd"}, "(x[i] - mean) * rstd", func(k *kernel, in, s []vec) vec {
		return center(k, in[0], s)
	})
	elementwise("normalizeAffine", []string{"dst", "x", "gamma", "beta"}, []string{"x", "gamma", "beta"}, []string{"mean", "rstd"}, "(x[i]-mean)*rstd*gamma[i] + beta[i]", func(k *kernel, in, s []vec) vec {
		h := center(k, in[0], s)
		k.mulAdd(h, in[1], in[2])
		return h
	})
	elementwise("normGrad", []string{"dst", "dy", "x"}, []string{"dy", "x"}, []string{"mean", "rstd", "a", "b"}, "rstd * (dy[i] - a - b*((x[i]-mean)*rstd))", func(k *kernel, in, s []vec) vec {
		r := k.sub(in[0], s[2])
		k.subMul(r, center(k, in[1], s), s[3])
		return k.mul(r, s[1])
	})
}
