package main

import (
	"bytes"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"

	. "github.com/mmcloughlin/avo/reg"
)

// TestEncodings compares the machine code of the instructions that the assembler of Go does not
// have with the machine code from the assembler of LLVM, for all registers.
func TestEncodings(t *testing.T) {
	assembler, err := exec.LookPath("llvm-mc")
	if err != nil {
		t.Skip("the assembler of LLVM, llvm-mc, is not installed")
	}
	general := []GPPhysical{RAX, RCX, RDX, RBX, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15}
	all := []instruction{tileRelease()}
	for i := range tmm(8) {
		all = append(all, tileZero(i))
		for j := range tmm(8) {
			for k := range tmm(8) {
				if i != j && j != k && k != i {
					all = append(all, tileProduct(i, j, k))
				}
			}
		}
	}
	for i, base := range general {
		if i < 6 {
			all = append(all, loadTileConfig(base))
		}
		for j, stride := range general {
			t := tmm((i + j) % 8)
			all = append(all, tileLoad(t, base, stride, 1024), tileStore(base, stride, 2048, t))
		}
	}
	vectors := targets[1].vec
	for i := range vectors {
		for j := range vectors {
			k := (i + 5*j + 3) % 32
			all = append(all, toBFloat16(vectors[i], vectors[j], vectors[k]), addDotProducts(vectors[i], vectors[j], vectors[k]))
		}
	}
	var source strings.Builder
	for _, i := range all {
		fmt.Fprintln(&source, i.text)
	}
	cmd := exec.Command(assembler, "-assemble", "-x86-asm-syntax=intel", "-triple=x86_64", "-mattr=+amx-tile,+amx-bf16,+avx512bf16", "-show-encoding")
	cmd.Stdin = strings.NewReader(source.String())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	found := regexp.MustCompile(`encoding: \[(.*)\]`).FindAllSubmatch(out, -1)
	if len(found) != len(all) {
		t.Fatalf("%d instructions were assembled, want %d", len(found), len(all))
	}
	for i, m := range found {
		var want []byte
		for _, b := range strings.Split(string(m[1]), ",") {
			v, err := strconv.ParseUint(b, 0, 8)
			if err != nil {
				t.Fatalf("%s: %v", all[i].text, err)
			}
			want = append(want, byte(v))
		}
		if !bytes.Equal(all[i].code, want) {
			t.Errorf("%s: the code is %x, want %x", all[i].text, all[i].code, want)
		}
	}
}
