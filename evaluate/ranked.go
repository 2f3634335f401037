package evaluate

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/sptune/spt/internal/jsonfile"
	"github.com/sptune/spt/internal/regularfile"
)

// Ranked holds the most probable classes of one image. A run folder keeps one for each image of the
// test split.
type Ranked struct {
	Path   string             // path of the image
	Target int                // class id, or Unknown
	Top    []ClassProbability // most probable class first; equal classes in the order of their id
	// TargetProbability is the probability of the target, which may be missing in Top. It is 0 if
	// the target is unknown.
	TargetProbability float64
}

// ClassProbability is the probability of one class.
type ClassProbability struct {
	Class       int     // class id
	Probability float64 // from 0 to 1
}

// Correct reports whether the most probable class is the target.
func (r Ranked) Correct() bool { return r.Top[0].Class == r.Target }

// Confidence returns the probability of the most probable class.
func (r Ranked) Confidence() float64 { return r.Top[0].Probability }

// Ranked returns the k most probable classes of each image. k must be at least 1; there may be
// fewer classes. temperature is as for [Predictions.Probabilities].
func (p *Predictions) Ranked(k int, temperature float64) []Ranked {
	ranked := make([]Ranked, p.Len())
	forBlocks(p.Len(), func(_, from, to int) {
		var all []float64
		var row []float32
		var top []int
		for i := from; i < to; i++ {
			row = p.row(i, row)
			// Logits order classes whose probabilities are too small for a float64.
			top = largest(row, k, top)
			all = probabilities(row, temperature, all)
			r := Ranked{Path: p.Paths[i], Target: int(p.Targets[i]), Top: make([]ClassProbability, len(top))}
			for rank, c := range top {
				r.Top[rank] = ClassProbability{c, all[c]}
			}
			if r.Target != Unknown {
				r.TargetProbability = all[r.Target]
			}
			ranked[i] = r
		}
	})
	return ranked
}

// MostConfidentlyWrong returns the n images whose wrong prediction has the highest confidence,
// highest first. Such images often have a wrong label. Images without a target are left out.
func MostConfidentlyWrong(all []Ranked, n int) []Ranked {
	wrong := slices.DeleteFunc(slices.Clone(all), func(r Ranked) bool { return r.Target == Unknown || r.Correct() })
	slices.SortStableFunc(wrong, func(a, b Ranked) int { return cmp.Compare(b.Confidence(), a.Confidence()) })
	return wrong[:min(n, len(wrong))]
}

// LeastConfident returns the n images whose prediction has the lowest confidence, lowest first.
// Such images are worth looking at first when more labels are to be made.
func LeastConfident(all []Ranked, n int) []Ranked {
	sorted := slices.Clone(all)
	slices.SortStableFunc(sorted, func(a, b Ranked) int { return cmp.Compare(a.Confidence(), b.Confidence()) })
	return sorted[:min(n, len(sorted))]
}

// check returns an error if r cannot be the prediction of a classifier with so many classes.
func (r Ranked) check(classes int) error {
	if r.Path == "" {
		return errors.New("the path is empty")
	}
	if r.Target != Unknown && (r.Target < 0 || r.Target >= classes) {
		return fmt.Errorf("the target is %d, expected 0 to %d", r.Target, classes-1)
	}
	if len(r.Top) == 0 || len(r.Top) > classes {
		return fmt.Errorf("it ranks %d classes, expected 1 to %d", len(r.Top), classes)
	}
	for i, t := range r.Top {
		switch {
		case t.Class < 0 || t.Class >= classes:
			return fmt.Errorf("it ranks class %d, expected 0 to %d", t.Class, classes-1)
		case slices.ContainsFunc(r.Top[:i], func(other ClassProbability) bool { return other.Class == t.Class }):
			return fmt.Errorf("it ranks class %d twice", t.Class)
		case i > 0 && t.Probability > r.Top[i-1].Probability:
			return fmt.Errorf("probability %v follows %v, expected the most probable class first", t.Probability, r.Top[i-1].Probability)
		}
	}
	for _, v := range []float64{r.Top[0].Probability, r.Top[len(r.Top)-1].Probability, r.TargetProbability} {
		if !(v >= 0 && v <= 1) {
			return fmt.Errorf("found the probability %v, expected 0 to 1", v)
		}
	}
	return nil
}

// rankedHeader is the format of predictions.jsonl. docs/format.md describes the file.
var rankedHeader = jsonfile.Header{Kind: jsonfile.Predictions, Version: 1}

// rankedHead is the first line of predictions.jsonl.
type rankedHead struct {
	jsonfile.Header
	Images  int      `json:"images"`
	Classes []string `json:"classes"`
}

// rankedLine is any other line of predictions.jsonl.
type rankedLine struct {
	Path string `json:"path,omitempty"`
	// PathBytes holds a path that is not UTF-8, instead of Path.
	PathBytes         []byte        `json:"path_base64,omitempty"`
	Target            *int          `json:"target,omitempty"`
	TargetProbability *probability  `json:"target_probability,omitempty"`
	Classes           []int         `json:"classes"`
	Probabilities     []probability `json:"probabilities"`
}

// probability is a number that JSON holds with the precision of float32, which halves the file.
type probability float64

func (p probability) MarshalJSON() ([]byte, error) {
	return strconv.AppendFloat(nil, float64(p), 'g', -1, 32), nil
}

// maxRanked limits the size of predictions.jsonl, in bytes. A line has about 150 bytes.
const maxRanked = 1 << 30

// SaveRanked replaces the file at path with ranked predictions. Its first line has the names of the
// classes, and each other line an image. Probabilities have the precision of float32.
func SaveRanked(path string, classes []string, all []Ranked) error {
	lines := make([]any, 0, len(all)+1)
	names := make([]string, len(classes))
	for i, name := range classes {
		names[i] = jsonfile.Text(name)
	}
	lines = append(lines, rankedHead{rankedHeader, len(all), names})
	for _, r := range all {
		if err := r.check(len(classes)); err != nil {
			return fmt.Errorf("writing %s: image %s: %w", path, r.Path, err)
		}
		var line rankedLine
		if utf8.ValidString(r.Path) {
			line.Path = r.Path
		} else {
			line.PathBytes = []byte(r.Path)
		}
		if r.Target != Unknown {
			p := probability(r.TargetProbability)
			line.Target, line.TargetProbability = &r.Target, &p
		}
		for _, t := range r.Top {
			line.Classes = append(line.Classes, t.Class)
			line.Probabilities = append(line.Probabilities, probability(t.Probability))
		}
		lines = append(lines, line)
	}
	return jsonfile.WriteLines(path, lines)
}

// LoadRanked reads the file that [SaveRanked] has written, and returns the names of the classes and
// the ranked predictions. The error for a broken file names the line.
func LoadRanked(path string) (classes []string, all []Ranked, err error) {
	data, err := regularfile.Read(path, maxRanked)
	if err != nil {
		return nil, nil, err
	}
	classes, all, err = decodeRanked(data)
	if err != nil {
		return nil, nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return classes, all, nil
}

// decodeRanked decodes the content of predictions.jsonl.
func decodeRanked(data []byte) (classes []string, all []Ranked, err error) {
	var head rankedHead
	number := 0
	for line := range bytes.Lines(data) {
		number++
		if number == 1 {
			if err = jsonfile.Decode(line, rankedHeader, &head); err == nil && len(head.Classes) == 0 {
				err = errors.New("field \"classes\" is missing or empty, expected the names of the classes")
			}
		} else {
			var r Ranked
			if r, err = decodeRankedLine(line, len(head.Classes)); err == nil {
				all = append(all, r)
			}
		}
		if err != nil {
			return nil, nil, fmt.Errorf("line %d: %w", number, err)
		}
	}
	if number == 0 {
		return nil, nil, errors.New("the file is empty, expected a first line with the names of the classes")
	}
	if head.Images != len(all) {
		return nil, nil, fmt.Errorf("found %d images, but line 1 says %d; the file is cut or changed", len(all), head.Images)
	}
	return head.Classes, all, nil
}

func decodeRankedLine(data []byte, classes int) (r Ranked, err error) {
	if !utf8.Valid(data) {
		return r, errors.New("the line is not UTF-8")
	}
	var line rankedLine
	if err := json.Unmarshal(data, &line); err != nil {
		return r, jsonfile.Explain(data, err)
	}
	switch {
	case (line.Path == "") == (len(line.PathBytes) == 0):
		return r, errors.New("expected one of the fields \"path\" and \"path_base64\"")
	case (line.Target == nil) != (line.TargetProbability == nil):
		return r, errors.New("found one of the fields \"target\" and \"target_probability\", expected both or none")
	case len(line.Classes) != len(line.Probabilities):
		return r, fmt.Errorf("found %d classes and %d probabilities, expected equal numbers", len(line.Classes), len(line.Probabilities))
	case line.Target != nil && *line.Target == Unknown:
		return r, fmt.Errorf("the target is %d, expected 0 to %d", Unknown, classes-1)
	}
	r = Ranked{Path: cmp.Or(line.Path, string(line.PathBytes)), Target: Unknown, Top: make([]ClassProbability, len(line.Classes))}
	if line.Target != nil {
		r.Target, r.TargetProbability = *line.Target, float64(*line.TargetProbability)
	}
	for i, c := range line.Classes {
		r.Top[i] = ClassProbability{c, float64(line.Probabilities[i])}
	}
	return r, r.check(classes)
}
