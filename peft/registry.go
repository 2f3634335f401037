package peft

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

var registry = struct {
	sync.RWMutex
	modules map[string]Module
	refused map[string]error        // by name: modules that Reserve has removed
	check   func(name string) error // nil: no names are reserved
}{modules: map[string]Module{}, refused: map[string]error{}}

// Register makes a structured module known under its name. From then on every plan can use it, and
// package method has the methods that are named after it. Register refuses a module without a name,
// count or graph function, a name that another module has, and a name that a method has.
func Register(m Module) error {
	if m.Name == "" || m.Count == nil || m.Graph == nil {
		return fmt.Errorf("registering structured module %q: it needs a name, a parameter count and a graph function", m.Name)
	}
	registry.Lock()
	defer registry.Unlock()
	if _, ok := registry.modules[m.Name]; ok {
		return fmt.Errorf("registering structured module %q: the name is taken by another module; choose another name", m.Name)
	}
	if registry.check != nil {
		if err := registry.check(m.Name); err != nil {
			return fmt.Errorf("registering structured module %q: %w; choose another name", m.Name, err)
		}
	}
	registry.modules[m.Name] = m
	return nil
}

// builtIn registers a module of this package.
func builtIn(m Module) {
	if err := Register(m); err != nil {
		panic(err)
	}
}

// Reserve makes [Register] refuse the names for which check returns an error. Package method
// reserves the names of methods. A module with such a name that was registered before is removed,
// and [Lookup] returns the error.
func Reserve(check func(name string) error) {
	registry.Lock()
	defer registry.Unlock()
	registry.check = check
	for name := range registry.modules {
		if err := check(name); err != nil {
			delete(registry.modules, name)
			registry.refused[name] = fmt.Errorf("structured module %q is not available: %w; register it under another name", name, err)
		}
	}
}

// Lookup returns a registered module. The error lists the registered names.
func Lookup(name string) (Module, error) {
	registry.RLock()
	defer registry.RUnlock()
	if err, ok := registry.refused[name]; ok {
		return Module{}, err
	}
	m, ok := registry.modules[name]
	if !ok {
		return Module{}, fmt.Errorf("structured module %q is not registered; registered: %s", name, strings.Join(names(), ", "))
	}
	return m, nil
}

// CountOf returns the parameter count of a registered module. The count for an empty name, as in
// plans without modules, is zero.
func CountOf(module string) (func(in, out, rank int) int, error) {
	if module == "" {
		return func(in, out, rank int) int { return 0 }, nil
	}
	m, err := Lookup(module)
	return m.Count, err
}

// Names returns the names of the registered modules, sorted.
func Names() []string {
	registry.RLock()
	defer registry.RUnlock()
	return names()
}

func names() []string { return slices.Sorted(maps.Keys(registry.modules)) }
