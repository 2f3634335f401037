package main

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestNEON compares the words of machine code with the assembler of LLVM: every instruction with
// several registers, and every word of the generated file with the instruction in its comment.
func TestNEON(t *testing.T) {
	assembler, err := exec.LookPath("llvm-mc")
	if err != nil {
		t.Skip("the assembler of LLVM, llvm-mc, is not installed")
	}
	var texts []string
	var words []uint32
	add := func(text string, word uint32) {
		texts = append(texts, text)
		words = append(words, word)
	}
	for i := range 32 {
		d, n, m := i, (7*i+3)%32, (11*i+20)%32
		for _, e := range []encoding{fadd, fsub, fmul, fdiv, fmax, fmin, fcmeq, fcmgt, faddp, fmaxp, fminp, andV, orrV, eorV, addV, subV, cmhs, uzp1, uzp2, zip1, zip2, umull, umull2, fmla, fmls, bsl, ext8} {
			add(e.text(d, n, m), e.word(d, n, m))
		}
		for _, e := range []encoding{fneg, fsqrt, frintn, fcvtns, scvtf, ucvtf, notV, dup, shiftLeft(i), shiftRight(i + 1)} {
			add(e.text(d, n), e.word(d, n))
		}
	}
	file, err := os.ReadFile("../vector_arm64.s")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, m := range regexp.MustCompile(`WORD \$(0x[0-9a-f]{8}) // (.*)`).FindAllStringSubmatch(string(file), -1) {
		if !seen[m[0]] {
			seen[m[0]] = true
			word, _ := strconv.ParseUint(m[1], 0, 32)
			add(m[2], uint32(word))
		}
	}
	if len(seen) == 0 {
		t.Fatal("the generated file has no words of machine code")
	}
	cmd := exec.Command(assembler, "-assemble", "-triple=aarch64", "-show-encoding")
	cmd.Stdin = strings.NewReader(strings.Join(texts, "\n") + "\n")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	found := regexp.MustCompile(`encoding: \[(.*)\]`).FindAllSubmatch(out, -1)
	if len(found) != len(texts) {
		t.Fatalf("%d instructions were assembled, want %d", len(found), len(texts))
	}
	for i, m := range found {
		w := words[i]
		if got := fmt.Sprintf("0x%02x,0x%02x,0x%02x,0x%02x", w&255, w>>8&255, w>>16&255, w>>24); got != string(m[1]) {
			t.Errorf("%s: the code is %s, LLVM has %s", texts[i], got, m[1])
		}
	}
}
