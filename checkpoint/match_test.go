package checkpoint

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func TestMatch(t *testing.T) {
	f := saved(t, StateDict{
		"norm.weight":            counted(4),
		"pos_embed":              counted(1, 5, 4),
		"head.weight":            counted(10, 4),
		"blocks.0.attn.qkv.bias": counted(6),
		"extra\x1b[31m":          counted(1),
	}, Entry{"relative_position_index", I32, []int{2}, []int32{0, 1}})
	sd, translation, err := f.Canonical(testNamings)
	if err != nil {
		t.Fatal(err)
	}
	r := Match(sd, []TensorInfo{
		{Name: "pos_embed", Shape: []int{1, 17, 4}},
		{Name: "blocks.0.attn.q.bias", Shape: []int{2}},
		{Name: "blocks.0.attn.k.bias", Shape: []int{2}},
		{Name: "blocks.0.attn.v.bias", Shape: []int{2}},
		{Name: "norm.weight", Shape: []int{4}},
		{Name: "norm.bias", Shape: []int{4}},
	})
	r.Unused = append(r.Unused, translation.Unused...)
	got, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"matched":["blocks.0.attn.q.bias","blocks.0.attn.k.bias","blocks.0.attn.v.bias","norm.weight"],"missing":["norm.bias"],` +
		`"wrong_shape":[{"name":"pos_embed","got":[1,5,4],"want":[1,17,4]}],` +
		`"unused":["head.weight","extra\u001b[31m","relative_position_index"]}`
	if string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	const fault = `checkpoint x.safetensors does not fit the model: 1 missing ("norm.bias"), 1 of the wrong shape ("pos_embed" has [1 5 4], wanted [1 17 4]); ` +
		`it has 3 tensors that the model does not use ("head.weight", "extra\x1b[31m", "relative_position_index"); ` +
		`choose the architecture and image size that the checkpoint was made for`
	if err := r.Err("x.safetensors"); err == nil || err.Error() != fault {
		t.Errorf("got\n%v\nwant\n%s", err, fault)
	}
}

func TestReportErr(t *testing.T) {
	if err := Match(StateDict{"a": counted(2)}, nil).Err("x"); err != nil {
		t.Errorf("an unused tensor is an error: %v", err)
	}
	if got, err := json.Marshal(Match(nil, nil)); err != nil || strings.Contains(string(got), "null") {
		t.Errorf("an empty report is %s, %v, want lists", got, err)
	}
	var wanted []TensorInfo
	for i := range 6 {
		wanted = append(wanted, TensorInfo{Name: fmt.Sprint("t", i)})
	}
	err := Match(nil, wanted).Err("x")
	if err == nil || !strings.Contains(err.Error(), `6 missing ("t0", "t1", "t2", "t3", "t4" and 1 more)`) {
		t.Errorf("got %v", err)
	}
	// A nil shape and an empty shape are equal: both are a scalar.
	if r := Match(StateDict{"s": {Shape: []int{}, Data: []float32{1}}}, []TensorInfo{{Name: "s"}}); len(r.Matched) != 1 {
		t.Errorf("got %v", r)
	}
}
