package evaluate

import (
	"cmp"
	"maps"
	"slices"
)

// Order returns the ids of all classes in an order that puts confused classes next to each other,
// so that the large cells of the confusion matrix lie near its diagonal. Classes without confusions
// keep their order.
//
// Order joins the most similar groups of classes first, by average linkage. The similarity of two
// classes is the sum of the rates at which each is taken for the other. Each of two joined groups
// is turned to the side that makes the confusions between them shortest. Groups without confusions
// between them follow in the order of their smallest class.
func Order(m *Metrics) []int {
	o := newOrdering(m)
	// The chain of nearest neighbours joins the same groups as a search for the most similar pair
	// in each step, in less time (Benzécri, Les cahiers de l'analyse des données 7, 1982).
	var chain []int
	for c := range m.Classes {
		for o.clusters[c].classes != nil && len(o.links[c]) > 0 || len(chain) > 0 {
			if len(chain) == 0 {
				chain = append(chain, c)
			}
			last, before := chain[len(chain)-1], -1
			if len(chain) > 1 {
				before = chain[len(chain)-2]
			}
			if len(o.links[last]) == 0 {
				chain = chain[:0]
			} else if next := o.nearest(last, before); next == before {
				chain = chain[:len(chain)-2]
				o.join(before, last)
			} else {
				chain = append(chain, next)
			}
		}
	}
	groups := slices.DeleteFunc(o.clusters, func(c cluster) bool { return c.classes == nil })
	slices.SortFunc(groups, func(a, b cluster) int { return cmp.Compare(a.smallest, b.smallest) })
	order := make([]int, 0, len(m.Classes))
	for _, g := range groups {
		// A mirrored group is as good. The smallest class comes into the first half.
		if 2*slices.Index(g.classes, g.smallest) >= len(g.classes) {
			slices.Reverse(g.classes)
		}
		order = append(order, g.classes...)
	}
	return order
}

// ordering holds the groups of classes while they are joined. A joined group keeps one of the two
// numbers; the other cluster is empty.
type ordering struct {
	neighbours [][]neighbour // of each class, in the order of their ids
	clusters   []cluster
	links      []map[int]float64 // sum of the similarities between two clusters; no entry means 0
	of         []int             // cluster of each class
	at         []int             // index of each class in its cluster
}

// neighbour is a class that a class is confused with.
type neighbour struct {
	class   int
	similar float64
}

type cluster struct {
	classes  []int // in their order; nil if the cluster was joined to another
	smallest int   // smallest class id
}

// newOrdering returns an ordering with one cluster for each class.
func newOrdering(m *Metrics) *ordering {
	n := len(m.Classes)
	o := &ordering{make([][]neighbour, n), make([]cluster, n), make([]map[int]float64, n), make([]int, n), make([]int, n)}
	for c := range n {
		o.clusters[c], o.links[c], o.of[c] = cluster{[]int{c}, c}, map[int]float64{}, c
	}
	for _, cell := range m.Confusion {
		if a, b := cell.Target, cell.Predicted; a != b {
			rate := ratio(cell.Images, m.Classes[a].Support)
			o.links[a][b] += rate
			o.links[b][a] += rate
		}
	}
	for c, links := range o.links {
		for _, other := range slices.Sorted(maps.Keys(links)) {
			o.neighbours[c] = append(o.neighbours[c], neighbour{other, links[other]})
		}
	}
	return o
}

// nearest returns the cluster with the highest mean similarity to cluster c. Among equals it
// returns the preferred cluster, or else the one with the smallest number.
func (o *ordering) nearest(c, preferred int) int {
	best, highest := -1, 0.0
	for other, sum := range o.links[c] {
		mean := sum / float64(len(o.clusters[c].classes)*len(o.clusters[other].classes))
		if mean > highest || mean == highest && best != preferred && (other == preferred || other < best) {
			best, highest = other, mean
		}
	}
	return best
}

// join joins the clusters a and b.
func (o *ordering) join(a, b int) {
	if len(o.clusters[a].classes) < len(o.clusters[b].classes) {
		a, b = b, a // b, the smaller, is moved
	}
	left, right := o.clusters[a].classes, o.clusters[b].classes
	// The confusions between the groups get shorter if the confused classes of the left group are
	// on its right, and the reverse.
	sum, leftSum, rightSum := 0.0, 0.0, 0.0
	for at, c := range right {
		for _, n := range o.neighbours[c] {
			if o.of[n.class] == a {
				sum += n.similar
				leftSum += n.similar * float64(o.at[n.class])
				rightSum += n.similar * float64(at)
			}
		}
	}
	if leftSum < sum*float64(len(left)-1)/2 {
		slices.Reverse(left)
	}
	if rightSum > sum*float64(len(right)-1)/2 {
		slices.Reverse(right)
	}
	joined := append(left, right...)
	for at, c := range joined {
		o.of[c], o.at[c] = a, at
	}
	o.clusters[a], o.clusters[b] = cluster{joined, min(o.clusters[a].smallest, o.clusters[b].smallest)}, cluster{}
	delete(o.links[a], b)
	for other, s := range o.links[b] {
		delete(o.links[other], b)
		if other != a {
			o.links[a][other] += s
			o.links[other][a] += s
		}
	}
	o.links[b] = nil
}
