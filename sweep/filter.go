package sweep

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/sptune/spt/internal/option"
	"github.com/sptune/spt/run"
)

// Filter selects jobs, and rows of results, by the names that the specification gives them: the
// values that each key may have. A key that the filter does not have may have every value, so an
// empty filter selects everything. The keys are those of [FilterKeys].
type Filter map[string][]string

// FilterKeys returns the keys of a [Filter]: task, group, model, method, budget, setting and seed.
func FilterKeys() []string {
	return []string{"task", "group", "model", "method", "budget", "setting", "seed"}
}

// Allow adds a condition such as "method=lora": it allows the value lora for the key method. Values
// of the same key are alternatives. The value is the text after the first "=", so it may hold any
// character. An unknown key and a text without "=" are errors.
func (f *Filter) Allow(condition string) error {
	key, value, found := strings.Cut(condition, "=")
	if !found {
		return option.Errorf("where", "the condition %q has no value; write KEY=VALUE, such as method=lora", condition)
	}
	if err := checkKey(key); err != nil {
		return err
	}
	if *f == nil {
		*f = Filter{}
	}
	(*f)[key] = append((*f)[key], value)
	return nil
}

func checkKey(key string) error {
	if !slices.Contains(FilterKeys(), key) {
		return option.Unknown("where", "key", key, FilterKeys())
	}
	return nil
}

// Conditions returns the conditions of the filter, as [Filter.Allow] takes them, in the order of
// the keys.
func (f Filter) Conditions() (all []string) {
	for _, key := range FilterKeys() {
		for _, value := range f[key] {
			all = append(all, key+"="+value)
		}
	}
	return all
}

// rows returns the rows that the filter selects. A value that no row has is an error, because it is
// misspelled, and so are conditions that no row meets together.
func (f Filter) rows(all []Row) (some []Row, err error) {
	for key := range f {
		if err := checkKey(key); err != nil {
			return nil, &run.OptionError{Option: "where", Err: err}
		}
	}
	known := map[string][]string{} // values of the rows, by key
	for _, r := range all {
		selected := true
		for key, allowed := range f {
			text := r.text(key)
			selected = selected && slices.Contains(allowed, text)
			if !slices.Contains(known[key], text) {
				known[key] = append(known[key], text)
			}
		}
		if selected {
			some = append(some, r)
		}
	}
	if len(all) == 0 {
		return nil, nil
	}
	for _, key := range FilterKeys() {
		for _, value := range f[key] {
			if !slices.Contains(known[key], value) {
				return nil, &run.OptionError{Option: "where", Err: option.Unknown("where", key, value, known[key])}
			}
		}
	}
	if len(some) == 0 {
		return nil, &run.OptionError{Option: "where", Err: fmt.Errorf("no run meets all conditions: %s; leave out one of them", strings.Join(f.Conditions(), ", "))}
	}
	return some, nil
}

// ids returns the IDs of the jobs that the filter selects; see rows.
func (f Filter) ids(all []Job) (map[string]bool, error) {
	var rows []Row
	for _, j := range all {
		rows = append(rows, j.labels())
	}
	rows, err := f.rows(rows)
	ids := map[string]bool{}
	for _, r := range rows {
		ids[r.ID] = true
	}
	return ids, err
}

// jobs returns the jobs that the filter selects; see rows.
func (f Filter) jobs(all []Job) ([]Job, error) {
	ids, err := f.ids(all)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(all), func(j Job) bool { return !ids[j.ID] }), nil
}

// text returns the value of the row in a column that holds a text or a whole number.
func (r *Row) text(column string) string {
	for _, c := range columns {
		if c.name != column {
			continue
		}
		switch v := c.value(r).(type) {
		case *string:
			return *v
		case *uint64:
			return strconv.FormatUint(*v, 10)
		}
	}
	panic(fmt.Sprintf("rows have no text in a column %s", column))
}
