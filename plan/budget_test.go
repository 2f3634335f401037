package plan

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

// resolved parses a budget and returns its number of parameters.
func resolved(text string, backbone int) (int, error) {
	b, err := ParseBudget(text)
	if err != nil {
		return 0, err
	}
	return b.Parameters(backbone)
}

func TestParseBudget(t *testing.T) {
	const vitBase = 85_798_656 // ViT-B/16 without its head
	for _, c := range []struct {
		text     string
		backbone int
		want     int
	}{
		{"400000", vitBase, 400_000},
		{"400k", vitBase, 400_000},
		{"400K", vitBase, 400_000},
		{"0.4M", vitBase, 400_000},
		{".4m", vitBase, 400_000},
		{" 0.4 M ", vitBase, 400_000},
		{"1.M", vitBase, 1_000_000},
		{"0.57M", vitBase, 570_000}, // 569,999.99… in floating point
		{"0.29M", vitBase, 290_000},
		{"0.0005k", 1, 0},
		{"0.001k", vitBase, 1},
		{"1", 1, 1},
		{"0.5%", vitBase, 428_993}, // 428,993.28
		{"100%", vitBase, vitBase},
		{"0.29%", 10_000, 29},
		{"85798656", vitBase, vitBase},
		{"85798657", vitBase, 0},
		{"100.0001%", vitBase, 0},
		{"999999999999999999M", vitBase, 0},
		{"0", vitBase, 0},
		{"0%", vitBase, 0},
		{"0.0%", vitBase, 0},
		{"0.001%", 99_999, 0}, // less than one parameter
		{"0.001%", 100_000, 1},
		{"400000.5", vitBase, 0},
		{"0.0000001M", vitBase, 0},
		{"1", 0, 0},
		{"1%", -5, 0},
	} {
		got, err := resolved(c.text, c.backbone)
		if got != c.want || (err == nil) != (c.want > 0) {
			t.Errorf("ParseBudget(%q, %d) = %d, %v, expected %d", c.text, c.backbone, got, err, c.want)
		}
	}
	for text, want := range map[string]string{
		"-1":             "negative",
		"-0.5%":          "negative",
		"-0":             "negative",
		"NaN":            "expected a number",
		"Inf":            "expected a number",
		"":               "expected a number",
		"M":              "expected a number",
		"%":              "expected a number",
		".":              "expected a number",
		"1e5":            "expected a number",
		"1e999999999":    "expected a number",
		"0x10":           "expected a number",
		"1/3":            "expected a number",
		"+5":             "expected a number",
		"5 5":            "expected a number",
		"5kM":            "expected a number",
		"5%%":            "expected a number",
		"400_000":        "expected a number",
		"400,000":        "expected a number",
		"0.4MB":          "expected a number",
		"１":              "expected a number",
		"400000.5":       "not a whole number",
		"86M":            "more than the 85798656",
		"0":              "no parameter",
		"0.00000000001%": "no parameter",
	} {
		n, err := resolved(text, vitBase)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseBudget(%q) = %d, error %v, expected one that says %q", text, n, err, want)
		}
	}
}

// TestBudgetText checks that a budget keeps its text, in JSON too. It also checks that different
// texts of the same number give the same number of parameters.
func TestBudgetText(t *testing.T) {
	in := struct {
		Budgets []Budget
		One     Budget `json:",omitzero"`
	}{Budgets: []Budget{MustParseBudget("200000"), MustParseBudget(" 0.2M "), MustParseBudget("0.5%"), {}}}
	data, err := json.Marshal(in)
	if err != nil || string(data) != `{"Budgets":["200000","0.2M","0.5%",""]}` {
		t.Fatalf("%s, %v", data, err)
	}
	out := in
	out.Budgets = nil
	if err := json.Unmarshal(data, &out); err != nil || !reflect.DeepEqual(in, out) {
		t.Errorf("%+v, %v", out, err)
	}
	a, errA := in.Budgets[0].Parameters(1e6)
	b, errB := in.Budgets[1].Parameters(1e6)
	if a != b || a != 200_000 || errA != nil || errB != nil {
		t.Errorf("%d and %d parameters, %v, %v", a, b, errA, errB)
	}
	if in.Budgets[0].IsShare() || !in.Budgets[2].IsShare() || in.Budgets[2].IsZero() || !in.Budgets[3].IsZero() {
		t.Error("IsShare or IsZero is wrong")
	}
	if err := json.Unmarshal([]byte(`{"Budgets":["1e5"]}`), &out); err == nil {
		t.Error("1e5 was accepted")
	}
	if _, err := (Budget{}).Parameters(100); err == nil {
		t.Error("Parameters of the zero Budget returned no error")
	}
}
