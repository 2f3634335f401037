package sweep

import (
	"slices"
	"strings"
	"testing"
)

// filter returns a filter with the conditions.
func filter(t *testing.T, conditions ...string) (f Filter) {
	t.Helper()
	for _, c := range conditions {
		if err := f.Allow(c); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// TestFilter compares the selected rows with a plain search, for jobs and for rows.
func TestFilter(t *testing.T) {
	var jobs []Job
	for i, r := range tableRows() {
		jobs = append(jobs, Job{ID: strings.Repeat("x", i+1), Task: r.Task, Group: r.Group, Model: r.Model, Method: r.Method, Budget: r.Method + "=1", Seed: r.Seed})
	}
	for _, c := range []struct {
		conditions []string
		selects    func(j Job) bool
	}{
		{nil, func(Job) bool { return true }},
		{[]string{"task=dtd", "task=kitti"}, func(j Job) bool { return j.Task == "dtd" || j.Task == "kitti" }},
		{[]string{"seed=1", "group=natural", "method=lora"}, func(j Job) bool { return j.Seed == 1 && j.Group == "natural" && j.Method == "lora" }},
		{[]string{"model=vit", "budget=lora=1"}, func(j Job) bool { return j.Method == "lora" }},
		{[]string{"setting="}, func(Job) bool { return true }},
	} {
		f := filter(t, c.conditions...)
		some, err := f.jobs(jobs)
		if err != nil {
			t.Fatal(err)
		}
		want := slices.DeleteFunc(slices.Clone(jobs), func(j Job) bool { return !c.selects(j) })
		if !slices.EqualFunc(some, want, func(a, b Job) bool { return a.ID == b.ID }) {
			t.Errorf("%s selects %d jobs, expected %d", c.conditions, len(some), len(want))
		}
		if again := filter(t, f.Conditions()...); !slices.Equal(again.Conditions(), f.Conditions()) {
			t.Errorf("%s has the conditions %s", c.conditions, f.Conditions())
		}
	}
	table, err := NewTable(tableRows(), TableOptions{Where: filter(t, "task=dtd", "method=lora", "seed=0", "seed=2")})
	if err != nil {
		t.Fatal(err)
	}
	if v := tableValues["lora"]; len(table.Lines) != 1 || table.Lines[0].Tasks[0].N != 2 || table.Lines[0].Tasks[0].Mean != (v[3]+v[5])/2 {
		t.Errorf("the table has the lines %+v", table.Lines)
	}
}

// TestFilterErrors checks that a filter selects nothing by mistake.
func TestFilterErrors(t *testing.T) {
	for condition, want := range map[string]string{
		"method": "KEY=VALUE", "methods=lora": `did you mean "method"? known: task, group`, "": "KEY=VALUE",
	} {
		if err := new(Filter).Allow(condition); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, expected %q", condition, err, want)
		}
	}
	for _, c := range []struct {
		conditions []string
		want       string
	}{
		{[]string{"method=lora", "method=spt-lore"}, `method "spt-lore" is unknown; did you mean "spt-lora"? known: lora, spt-lora`},
		{[]string{"seed=3"}, `seed "3" is unknown`},
		{[]string{"task=dtd", "group=structured"}, "no run meets all conditions: task=dtd, group=structured"},
	} {
		_, err := NewTable(tableRows(), TableOptions{Where: filter(t, c.conditions...)})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, expected %q", c.conditions, err, c.want)
		}
	}
	if _, err := (Filter{"tasks": {"dtd"}}).rows(tableRows()); err == nil || !strings.Contains(err.Error(), `did you mean "task"`) {
		t.Errorf("an unknown key: error %v", err)
	}
}
