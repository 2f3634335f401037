package cpu

import (
	"fmt"
	"slices"
)

// This file contains the last part of the compilation. The nodes become tasks in their final order,
// the memory plan assigns memory to every tensor, and every task becomes a step.

// task is a node in its final position, with the tensors that it reads and writes in memory.
type task struct {
	node   *node
	reads  []*tensor
	writes []*tensor
}

// schedule returns the tasks of the program in the order in which they run.
func (c *compiler) schedule(b *builder) (tasks []task) {
	for _, v := range b.main.params {
		s := c.values[v].t.slot
		s.where, s.index = inInput, v.op.attrs.(parameter).index
	}
	id := 0
	for _, n := range c.nodes {
		switch n.kind {
		case kindInput:
			continue
		case kindConstant:
			s := n.out[0].slot
			s.where, s.constant = inConstant, n.rec.attrs.(*buffer)
			continue
		}
		t := task{node: n}
		if n.loop != nil {
			t.reads, t.writes = n.loop.reads, n.loop.writes
		} else {
			for _, e := range n.edges() {
				if !slices.Contains(t.reads, e.t) {
					t.reads = append(t.reads, e.t)
				}
			}
			t.writes = slices.Clone(n.out)
			if n.kind == kindRandom && !c.inMemory[n.out[1]] {
				t.writes = t.writes[:1]
			}
		}
		for _, w := range t.writes {
			w.id = id
			id++
		}
		tasks = append(tasks, t)
	}
	return tasks
}

// executable plans the memory of the tasks and turns them into steps.
func (c *compiler) executable(b *builder, tasks []task) (*executable, error) {
	x := &executable{backend: c.backend, name: b.name, results: c.results, arenaBytes: plan(tasks, c.outputs)}
	for _, v := range b.main.params {
		x.names = append(x.names, v.op.attrs.(parameter).name)
		x.params = append(x.params, v.shape)
	}
	for _, t := range c.outputs {
		x.outputs = append(x.outputs, t.slot)
	}
	for _, t := range tasks {
		k, err := c.kernel(t.node)
		if err != nil {
			return nil, err
		}
		s := step{kernel: k}
		s.kind, s.detail = t.node.describe()
		x.steps = append(x.steps, s)
	}
	for _, n := range c.nodes {
		if n.kind == kindConstant {
			constant := n.rec.attrs.(*buffer)
			c.backend.buffers.Add(int64(len(constant.data)))
			x.constants = append(x.constants, constant)
		}
	}
	x.patches = c.patches
	return x, nil
}

// kernel returns the kernel that computes n.
func (c *compiler) kernel(n *node) (kernel, error) {
	if n.loop != nil {
		return n.loop.loop, nil
	}
	switch n.kind {
	case kindCopy:
		return newCopyKernel(n), nil
	case kindPad:
		return newPadKernel(n), nil
	case kindConcat:
		return newConcatKernel(n), nil
	case kindReduce:
		return newReduceKernel(n), nil
	case kindDot:
		return c.newProduct(n), nil
	case kindAttention:
		return c.newAttentionKernel(n), nil
	case kindAttentionVJP:
		return c.newAttentionVJPKernel(n), nil
	case kindDepthwise:
		return newDepthwiseKernel(n), nil
	case kindDepthwiseGradient:
		return newDepthwiseGradientKernel(n), nil
	case kindConv:
		return c.newConvKernel(n), nil
	case kindRandom:
		return newRandomKernel(n), nil
	case kindScatter:
		return newScatterKernel(n), nil
	case kindGather:
		return newGatherKernel(n), nil
	case kindSparseDot:
		return newSparseDotKernel(n), nil
	case kindDelegated:
		return c.backend.newDelegatedKernel(n)
	}
	return nil, fmt.Errorf("a node of kind %d (%s) has no kernel", n.kind, n.op)
}
