package peft

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/sptune/spt/internal/option"
)

// registry holds the registered modules by name.
var registry = struct {
	sync.RWMutex
	modules map[string]Module
	refused map[string]error        // error of Lookup for each module that Reserve removed, by name
	check   func(name string) error // function that Reserve set, or nil
}{modules: map[string]Module{}, refused: map[string]error{}}

// Register adds a structured module. Afterwards plans can use it by its name, and package method
// lists the methods that are named after it. For a module "x" these are x, spt-x and
// spt-x-structured.
//
// Register returns an error if the name, the count or the graph function is missing. It also
// returns an error if another module has the same name, or if [Reserve] reserved the name.
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
	m.uses = sync.OnceValues(m.findUses) // every check of options asks for them
	registry.modules[m.Name] = m
	return nil
}

// builtIn registers a module of this package. It panics if Register fails.
func builtIn(m Module) {
	if err := Register(m); err != nil {
		panic(err)
	}
}

// Reserve reserves the names for which check returns an error. [Register] then returns this error
// for such a name. Reserve removes modules that are already registered under a reserved name;
// [Lookup] returns the error for them. Package method calls Reserve to reserve the names of its
// methods.
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

// Lookup returns the registered module with the given name. If there is no such module, the error
// lists the registered names.
func Lookup(name string) (Module, error) {
	registry.RLock()
	defer registry.RUnlock()
	if err, ok := registry.refused[name]; ok {
		return Module{}, err
	}
	m, ok := registry.modules[name]
	if !ok {
		return Module{}, option.Unknown("", "structured module", name, names())
	}
	return m, nil
}

// CountOf returns the Count function of the registered module with the given name. An empty name
// means no module, as in a plan without structured modules; the function then returns 0. An unknown
// name is an error.
func CountOf(module string) (func(in, out, rank int) int, error) {
	if module == "" {
		return func(in, out, rank int) int { return 0 }, nil
	}
	m, err := Lookup(module)
	return m.Count, err
}

// Names returns the sorted names of the registered modules.
func Names() []string {
	registry.RLock()
	defer registry.RUnlock()
	return names()
}

// names implements Names. The caller holds the lock of registry.
func names() []string { return slices.Sorted(maps.Keys(registry.modules)) }
