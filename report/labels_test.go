package report

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/sptune/spt/evaluate"
)

// TestLabelPage checks the page of an evaluation with several labels: a row for each label, the
// pairs of labels, and a warning about labels without images.
func TestLabelPage(t *testing.T) {
	p := &evaluate.LabelPredictions{Classes: []string{"cat", "<dog>", "eel"}}
	if err := p.Add([]string{"a", "b", "c"}, []int32{1, 1, 0, 0, 1, 0, 1, 0, 0}, []float32{2, 1, -1, -2, 3, -1, 1, -1, -2}); err != nil {
		t.Fatal(err)
	}
	e, err := NewLabelEvaluation("test", p, evaluate.Posthoc{Thresholds: []float64{0.5, 0.25, 0.5}, LabelCalibration: []evaluate.LabelCalibration{{Scale: 2}, {Scale: 2}, {Scale: 1, Offset: -1}}})
	if err != nil {
		t.Fatal(err)
	}
	v := (&Evaluated{Evaluation: e}).view()
	if v.Confusion != nil || v.Mistakes != nil || v.Reliability == nil || len(v.Reliability.Charts) != 2 || len(v.Classes.Table.Rows) != 3 || len(v.Together.Table.Rows) != 1 {
		t.Errorf("view %+v", v)
	}
	if v.Answer.Value != "100.00%" || !strings.Contains(v.Answer.What, "test mAP: the mean average precision of 2 labels, on 3 images") || len(v.Answer.Warnings) != 1 || !strings.Contains(v.Answer.Warnings[0], "eel") {
		t.Errorf("answer %+v", v.Answer)
	}
	var page bytes.Buffer
	if err := (&Page{Title: "labels", Evaluated: &Evaluated{Evaluation: e}}).Write(&page, time.Now()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Labels together", "&lt;dog&gt;", "average precision", "0.250", "exactly right"} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	// Many labels: the table is cut.
	many := &Evaluation{Classes: make([]string, 30), Labels: &evaluate.LabelMetrics{Labels: make([]evaluate.Label, 30)}}
	if v := many.labelTable(10); len(v.Table.Rows) != 10 || v.Note == "" {
		t.Errorf("%d rows, note %q", len(v.Table.Rows), v.Note)
	}
	if many.together() != nil {
		t.Error("a table of pairs without pairs")
	}
}
