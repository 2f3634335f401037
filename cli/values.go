package cli

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sptune/spt/internal/bench"
	"github.com/sptune/spt/internal/option"
	"github.com/sptune/spt/method"
	"github.com/sptune/spt/peft"
	"github.com/sptune/spt/plan"
	"github.com/sptune/spt/run"
	"github.com/sptune/spt/sweep"
	"github.com/sptune/spt/train"
)

// This file holds the types of flag values that pflag does not have. For each type, Set(v.String())
// sets the same value again. refuseContradictions relies on this: it compares the texts of values
// to find flags that contradict a stored run.

// bounds is the range of numbers that a flag accepts. The zero value allows every number of at
// least 0.
type bounds struct {
	min   float64 // the smallest allowed number
	above bool    // min itself is not allowed
	below float64 // the first number that is too large; 0 means no upper bound
	most  float64 // the largest allowed number; 0 means no upper bound
}

var (
	zeroOrMore = bounds{}
	oneOrMore  = bounds{min: 1}
	aboveZero  = bounds{above: true}
	shares     = bounds{below: 1}
	upToOne    = bounds{most: 1}
)

// contain reports whether v is within the bounds.
func (b bounds) contain(v float64) bool {
	return !math.IsNaN(v) && !math.IsInf(v, 0) && v >= b.min && !(b.above && v == b.min) && (b.below == 0 || v < b.below) && (b.most == 0 || v <= b.most)
}

func (b bounds) String() string {
	switch {
	case b.below > 0:
		return fmt.Sprintf("from %g to below %g", b.min, b.below)
	case b.most > 0:
		return fmt.Sprintf("from %g to %g", b.min, b.most)
	case b.above:
		return fmt.Sprintf("above %g", b.min)
	}
	return fmt.Sprintf("of at least %g", b.min)
}

// numberValue is the value of a flag that takes a number within bounds.
type numberValue[T int | uint64 | float64] struct {
	to *T
	bounds
	// zeroIsNone reports whether Set stores -1 for 0. The library reads -1 as none, and 0 as its
	// default.
	zeroIsNone bool
}

func (n numberValue[T]) Type() string { return "number" }

func (n numberValue[T]) String() string {
	if v, ok := any(*n.to).(float64); ok && n.zeroIsNone && v < 0 {
		return "0"
	} else if ok {
		return strconv.FormatFloat(v, 'g', -1, 64)
	}
	return fmt.Sprint(*n.to)
}

func (n numberValue[T]) Set(text string) error {
	var v T
	var err error
	kind := "whole"
	switch p := any(&v).(type) {
	case *int:
		var i int64
		i, err = strconv.ParseInt(text, 0, strconv.IntSize)
		*p = int(i)
	case *uint64:
		*p, err = strconv.ParseUint(text, 0, 64)
	case *float64:
		kind = "finite"
		*p, err = strconv.ParseFloat(text, 64)
	}
	if err != nil || !n.contain(float64(v)) {
		return fmt.Errorf("expected a %s number %v", kind, n.bounds)
	}
	if v == 0 && n.zeroIsNone {
		v--
	}
	*n.to = v
	return nil
}

// methodValue is the name of a method.
type methodValue method.Method

func (m *methodValue) Type() string   { return "method" }
func (m *methodValue) String() string { return string(*m) }
func (m *methodValue) Set(text string) error {
	_, err := method.Lookup(method.Method(text))
	*m = methodValue(text)
	return err
}

// benchMethodValue is the name of a step that 'spt bench' can measure: a method, forward or score.
type benchMethodValue bench.Method

func (m *benchMethodValue) Type() string   { return "method" }
func (m *benchMethodValue) String() string { return string(*m) }
func (m *benchMethodValue) Set(text string) error {
	*m = benchMethodValue(text)
	return bench.Method(text).Validate()
}

// methodsValue is a list of methods. A flag takes names separated by commas and can be repeated.
type methodsValue []method.Method

func (m *methodsValue) Type() string   { return "methods" }
func (m *methodsValue) String() string { return strings.Join(texts(*m), ",") }
func (m *methodsValue) Set(text string) error {
	for part := range strings.SplitSeq(text, ",") {
		var one methodValue
		if err := one.Set(part); err != nil {
			return err
		}
		*m = append(*m, method.Method(one))
	}
	return nil
}

// namesValue is a list of names. A flag takes names separated by commas and can be repeated.
type namesValue []string

func (n *namesValue) Type() string   { return "names" }
func (n *namesValue) String() string { return comma(*n) }
func (n *namesValue) Set(text string) error {
	*n = append(*n, strings.Split(text, ",")...)
	return nil
}

// wordsValue is a list of words, separated by commas. A second flag replaces it.
type wordsValue []string

func (w *wordsValue) Type() string   { return "words" }
func (w *wordsValue) String() string { return strings.Join(*w, ",") }
func (w *wordsValue) Set(text string) error {
	*w = strings.Split(strings.ReplaceAll(text, " ", ""), ",")
	return nil
}

// factorsValue holds a factor for each of some groups of tensors.
type factorsValue map[peft.Group]float64

func (f *factorsValue) Type() string { return "factors" }

func (f *factorsValue) String() string {
	var texts []string
	for _, group := range slices.Sorted(maps.Keys(*f)) {
		texts = append(texts, fmt.Sprintf("%s=%g", group, (*f)[group]))
	}
	return strings.Join(texts, ",")
}

func (f *factorsValue) Set(text string) error {
	set := factorsValue{}
	for one := range strings.SplitSeq(text, ",") {
		group, number, _ := strings.Cut(one, "=")
		factor, err := strconv.ParseFloat(number, 64)
		if err != nil {
			return fmt.Errorf("%q is no GROUP=FACTOR, such as %s=3", one, peft.BiasGroup)
		}
		set[peft.Group(group)] = factor
	}
	*f = set
	return nil
}

// filterValue holds the conditions of a flag that can be repeated, so Set adds a condition. No run
// stores it.
type filterValue sweep.Filter

func (f *filterValue) Type() string          { return "filter" }
func (f *filterValue) String() string        { return strings.Join(sweep.Filter(*f).Conditions(), " ") }
func (f *filterValue) Set(text string) error { return (*sweep.Filter)(f).Allow(text) }

// choiceValue is the value of a flag that accepts the given words only.
type choiceValue struct {
	to    *string
	words []string
}

func (c choiceValue) Type() string   { return "string" }
func (c choiceValue) String() string { return *c.to }
func (c choiceValue) Set(text string) error {
	if !slices.Contains(c.words, text) {
		return option.Unknown("", "value", text, c.words)
	}
	*c.to = text
	return nil
}

// pathValue is a path. Set stores the absolute path, so that a run can be resumed from any working
// folder.
type pathValue string

func (p *pathValue) Type() string   { return "path" }
func (p *pathValue) String() string { return string(*p) }
func (p *pathValue) Set(text string) error {
	if text == "" {
		return fmt.Errorf("expected a path")
	}
	abs, err := filepath.Abs(text)
	*p = pathValue(abs)
	return err
}

// dataValue is a data set: a path, as for pathValue, or a reference to the Hugging Face Hub.
type dataValue string

func (d *dataValue) Type() string   { return "path" }
func (d *dataValue) String() string { return string(*d) }
func (d *dataValue) Set(text string) error {
	if text == "" {
		return fmt.Errorf("expected a path")
	}
	name, err := run.AbsoluteData(text)
	*d = dataValue(name)
	return err
}

// modelValue is a backbone: the path of a checkpoint, the name of a published backbone, a reference
// to the Hugging Face Hub, or the name of the embedded backbone. Set stores what run.Locate
// returns.
type modelValue string

func (m *modelValue) Type() string   { return "path" }
func (m *modelValue) String() string { return string(*m) }
func (m *modelValue) Set(text string) error {
	path, err := run.Locate(text)
	*m = modelValue(path)
	return err
}

// weightsValue is the path of a file of class weights, or one of the values of
// train.Options.ClassWeights that name no file.
type weightsValue string

func (w *weightsValue) Type() string   { return "path" }
func (w *weightsValue) String() string { return string(*w) }
func (w *weightsValue) Set(text string) error {
	if text == train.AutoWeights || text == train.NoWeights {
		*w = weightsValue(text)
		return nil
	}
	return (*pathValue)(w).Set(text)
}

// ratesValue is one learning rate, or several that are separated by commas.
type ratesValue struct {
	one *float64   // the first
	all *[]float64 // all, if there are several; else nil
}

func (r *ratesValue) Type() string { return "rates" }
func (r *ratesValue) String() string {
	if len(*r.all) == 0 {
		return textOf(*r.one)
	}
	return strings.Join(rates(*r.all), ",")
}
func (r *ratesValue) Set(text string) error {
	var all []float64
	for _, part := range strings.Split(text, ",") {
		var lr float64
		if err := (numberValue[float64]{&lr, aboveZero, false}).Set(strings.TrimSpace(part)); err != nil {
			return err
		}
		if slices.Contains(all, lr) {
			return fmt.Errorf("%g is given twice", lr)
		}
		all = append(all, lr)
	}
	*r.one, *r.all = all[0], nil
	if len(all) > 1 {
		*r.all = all
	}
	return nil
}

// secondsValue is a time in seconds, written as a duration such as 30m.
type secondsValue float64

func (v *secondsValue) Type() string { return "time" }
func (v *secondsValue) String() string {
	if *v == 0 {
		return ""
	}
	return time.Duration(float64(*v) * float64(time.Second)).String()
}
func (v *secondsValue) Set(text string) error {
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return errors.New("expected a time above 0, such as 90s, 30m or 2h")
	}
	*v = secondsValue(d.Seconds())
	return nil
}

// notValue is a flag that is set where a field is false.
type notValue struct{ no *bool }

func (v notValue) Type() string     { return "bool" }
func (v notValue) IsBoolFlag() bool { return true }
func (v notValue) String() string   { return strconv.FormatBool(!*v.no) }
func (v notValue) Set(text string) error {
	yes, err := strconv.ParseBool(text)
	if err == nil {
		*v.no = !yes
	}
	return err
}

// budgetValue is a budget: a number of parameters, or a share of the parameters of the backbone.
type budgetValue plan.Budget

func (b *budgetValue) Type() string   { return "parameters" }
func (b *budgetValue) String() string { return plan.Budget(*b).String() }
func (b *budgetValue) Set(text string) error {
	budget, err := plan.ParseBudget(text)
	if err != nil {
		return errors.Unwrap(err) // flagError names the flag and its value
	}
	*b = budgetValue(budget)
	return nil
}

// budgetsValue is a list of budgets. A flag takes budgets separated by commas and can be repeated.
type budgetsValue []plan.Budget

func (b *budgetsValue) Type() string   { return "parameters" }
func (b *budgetsValue) String() string { return strings.ReplaceAll(plan.BudgetNames(*b), ", ", ",") }
func (b *budgetsValue) Set(text string) error {
	for part := range strings.SplitSeq(text, ",") {
		var one budgetValue
		if err := one.Set(part); err != nil && part != text {
			return fmt.Errorf("%q: %w", part, err)
		} else if err != nil {
			return err
		}
		*b = append(*b, plan.Budget(one))
	}
	return nil
}

// memoryValue is an amount of memory in bytes. The library reads 0 as its default, 1 GiB, and a
// negative number as no memory.
type memoryValue int64

var byteUnits = []struct {
	name string
	size int64
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"B", 1}, {"", 1}}

func (b *memoryValue) Type() string { return "size" }
func (b *memoryValue) String() string {
	n := int64(*b)
	switch {
	case n < 0:
		return "0"
	case n == 0:
		n = 1 << 30
	}
	for _, u := range byteUnits {
		if n%u.size == 0 {
			return fmt.Sprintf("%d%s", n/u.size, u.name)
		}
	}
	return fmt.Sprint(n)
}

func (b *memoryValue) Set(text string) error {
	for _, u := range byteUnits {
		digits, ok := strings.CutSuffix(text, u.name)
		if !ok {
			continue
		}
		v, err := strconv.ParseFloat(digits, 64)
		n := v * float64(u.size)
		if err != nil || !(n >= 0) || n > math.MaxInt64/2 {
			break
		}
		if *b = memoryValue(n); *b == 0 {
			*b = -1
		}
		return nil
	}
	return fmt.Errorf("expected an amount of memory, such as 1GiB, 512MiB or 0")
}

// numbersValue is the value of a flag that takes a fixed number of numbers, separated by commas. A
// single 0 sets all of them to 0.
type numbersValue []*float64

func (n numbersValue) Type() string { return "numbers" }
func (n numbersValue) String() string {
	var texts []string
	zero := true
	for _, v := range n {
		texts = append(texts, textOf(*v))
		zero = zero && *v == 0
	}
	if zero {
		return "0"
	}
	return strings.Join(texts, ",")
}

func (n numbersValue) Set(text string) error {
	parts := strings.Split(text, ",")
	if text == "0" {
		parts = slices.Repeat(parts, len(n))
	}
	if len(parts) != len(n) {
		return fmt.Errorf("expected %d numbers, separated by commas, or 0", len(n))
	}
	values := make([]float64, len(n))
	for i, part := range parts {
		if err := (numberValue[float64]{&values[i], zeroOrMore, false}).Set(strings.TrimSpace(part)); err != nil {
			return fmt.Errorf("%q: %w", part, err)
		}
	}
	for i, v := range values {
		*n[i] = v
	}
	return nil
}

// presetValue is the name of a preset of augmentation. Set only stores the name; takeImages sets
// the options of the preset.
type presetValue run.ImageOptions

func (p *presetValue) Type() string { return "preset" }
func (p *presetValue) String() string {
	// The configuration of a run has no name.
	return cmp.Or(p.Preset, run.ImageOptions(*p).PresetName(), "other options")
}
func (p *presetValue) Set(text string) error {
	_, err := run.ImageOptions{}.WithPreset(text)
	p.Preset = text
	return errors.Unwrap(err)
}

// augmentValue is the name of a preset of augmentation, or run.AutoAugment, which sets auto.
type augmentValue struct {
	preset *presetValue
	auto   *bool
}

func (v augmentValue) Type() string { return v.preset.Type() }
func (v augmentValue) String() string {
	if *v.auto {
		return run.AutoAugment
	}
	return v.preset.String()
}
func (v augmentValue) Set(text string) error {
	if *v.auto = text == run.AutoAugment; *v.auto {
		text = "none"
	}
	return v.preset.Set(text)
}

// channelsValue is the value of a flag that takes three numbers, for red, green and blue. Set also
// records in source that the user has given the preprocessing of the images.
type channelsValue struct {
	to     *[3]float32
	source *string
}

func (c *channelsValue) Type() string { return "r,g,b" }
func (c *channelsValue) String() string {
	if *c.source != run.GivenPreprocessing {
		return ""
	}
	return channels(*c.to)
}

func (c *channelsValue) Set(text string) error {
	parts := strings.Split(text, ",")
	if len(parts) != len(c.to) {
		return fmt.Errorf("expected three numbers, such as 0.5,0.5,0.5")
	}
	for i, p := range parts {
		v, err := strconv.ParseFloat(strings.TrimSpace(p), 32)
		if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
			return fmt.Errorf("%q is not a number; expected three numbers, such as 0.5,0.5,0.5", p)
		}
		c.to[i] = float32(v)
	}
	*c.source = run.GivenPreprocessing
	return nil
}

// columnsValue holds the names of columns, which are separated by commas.
type columnsValue []string

func (v *columnsValue) Type() string   { return "columns" }
func (v *columnsValue) String() string { return strings.Join(*v, ",") }
func (v *columnsValue) Set(text string) error {
	*v = nil
	for name := range strings.SplitSeq(text, ",") {
		if name = strings.TrimSpace(name); name == "" {
			return fmt.Errorf("expected the names of columns, such as cat,dog")
		}
		*v = append(*v, name)
	}
	return nil
}
