// Checks of a page. Each function returns a list of problems, in words.
({
	// describe names an element by its tag, id, class and the beginning of its text.
	describe(element) {
		const name = element.tagName.toLowerCase() + (element.id && "#" + element.id) +
			[...element.classList].map(c => "." + c).join("");
		const text = element.textContent.trim().replace(/\s+/g, " ");
		return `<${name}>` + (text && ` "${[...text].slice(0, 40).join("")}"`);
	},

	// visible reports whether an element is shown and has a size.
	visible(element) {
		return element.checkVisibility({visibilityProperty: true, opacityProperty: true}) && element.getClientRects().length > 0;
	},

	// overflow finds what makes the page wider than its window, which is width CSS pixels wide.
	overflow(width) {
		const root = document.documentElement;
		if (Math.abs(root.clientWidth - width) > 20)
			return [`the layout is ${root.clientWidth} px wide in a window of ${width} px: the page has no <meta name="viewport" content="width=device-width">`];
		const wide = Math.max(root.scrollWidth, document.body.scrollWidth);
		if (wide <= root.clientWidth)
			return [];
		const culprits = [];
		for (const element of document.body.querySelectorAll("*")) {
			let inside = element.parentElement;
			while (inside !== document.body && getComputedStyle(inside).overflowX === "visible")
				inside = inside.parentElement;
			const box = element.getBoundingClientRect();
			const spills = getComputedStyle(element).overflowX === "visible" ? element.scrollWidth : 0; // also of text
			const right = Math.max(box.right, box.left + spills);
			if (inside === document.body && right > root.clientWidth + 0.5)
				culprits.push({element, right});
		}
		return [`the page is ${wide} px wide in a window of ${root.clientWidth} px`, ...culprits
			.filter(c => !culprits.some(other => other !== c && c.element.contains(other.element)))
			.slice(0, 5).map(c => `${this.describe(c.element)} ends at ${Math.round(c.right)} px`)];
	},

	// images finds drawings that are neither images with a role nor hidden from screen readers. The
	// names of the images are checked in the accessibility tree.
	images() {
		return [...document.querySelectorAll("svg")]
			.filter(svg => !svg.parentElement.closest("svg") && svg.getAttribute("role") !== "img" && !svg.closest("[aria-hidden=true]"))
			.map(svg => `${this.describe(svg)} has neither role="img" nor aria-hidden="true"`)
			.concat([...document.images].filter(i => !i.hasAttribute("alt")).map(i => `${this.describe(i)} has no attribute alt`));
	},

	// resources finds elements that load something from outside the page. A preconnection or a
	// prefetched name appears in no list of requests.
	resources() {
		const problems = [];
		for (const element of document.querySelectorAll("*"))
			for (const {name, value} of element.attributes)
				if (/^(src|srcset|href|xlink:href|data|poster|background|action|formaction|ping|manifest|code|archive)$/.test(name) &&
					!(element.localName === "a" && /^(href|xlink:href)$/.test(name)) && !/^(data:|#|\s*$)/.test(value))
					problems.push(`${this.describe(element)} has ${name}="${value.slice(0, 60)}"`);
		const refresh = document.querySelector("meta[http-equiv=refresh i], base");
		return refresh ? [...problems, `the page has ${this.describe(refresh)}`] : problems;
	},

	// structure finds sections that break the contract of a report: one main, and sections with an
	// id and a heading of their own, in this order.
	structure(ids) {
		const problems = [];
		if (document.querySelectorAll("main").length !== 1)
			problems.push(`${document.querySelectorAll("main").length} elements <main>, expected 1`);
		const sections = [...document.querySelectorAll("main section[id]")];
		for (const section of sections) {
			if (!section.querySelector("h2")?.textContent.trim())
				problems.push(`${this.describe(section)} has no h2`);
			if (!this.visible(section))
				problems.push(`${this.describe(section)} is not visible`);
		}
		const has = sections.map(s => s.id);
		const missing = ids.filter(id => !has.includes(id));
		if (missing.length)
			problems.push(`no section ${missing.join(", ")}; the page has ${has.join(", ") || "none"}`);
		else if (has.filter(id => ids.includes(id)).join() !== ids.join())
			problems.push(`the sections have the order ${has.join(", ")}, expected ${ids.join(", ")}`);
		const all = [...document.querySelectorAll("[id]")].map(e => e.id);
		const twice = [...new Set(all.filter((id, i) => all.indexOf(id) !== i))];
		if (twice.length)
			problems.push(`ids that occur twice: ${twice.slice(0, 5).join(", ")}`);
		if (!document.documentElement.lang || !document.title.trim())
			problems.push("the page has no language or no title");
		return problems;
	},

	// rgba returns the red, green, blue (0 to 255) and alpha (0 to 1) of any CSS colour.
	rgba(colour) {
		this.colours ??= new Map();
		if (!this.colours.has(colour)) {
			this.canvas ??= Object.assign(document.createElement("canvas"), {width: 1, height: 1}).getContext("2d", {willReadFrequently: true});
			this.canvas.clearRect(0, 0, 1, 1);
			this.canvas.fillStyle = colour;
			this.canvas.fillRect(0, 0, 1, 1);
			const [r, g, b, a] = this.canvas.getImageData(0, 0, 1, 1).data;
			this.colours.set(colour, [r, g, b, a / 255]);
		}
		return this.colours.get(colour);
	},

	// over returns the colour of a layer over an opaque colour.
	over([r, g, b, a], under) {
		return [r, g, b].map((c, i) => c * a + under[i] * (1 - a));
	},

	// luminance returns the relative luminance of WCAG 2.
	luminance(colour) {
		const [r, g, b] = colour.map(c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
		return 0.2126 * r + 0.7152 * g + 0.0722 * b;
	},

	// opacity returns the product of the opacities of an element and of those that it is in.
	opacity(element) {
		let product = 1;
		for (; element; element = element.parentElement)
			product *= getComputedStyle(element).opacity;
		return product;
	},

	// background returns the opaque colour behind the point (x, y) of an element.
	background(element, x, y) {
		const layers = [];
		const svg = element.closest("svg");
		if (svg) // shapes that are painted before the text and cover the point
			for (const shape of [...svg.querySelectorAll("rect, circle, path")].reverse()) {
				if (!(shape.compareDocumentPosition(element) & Node.DOCUMENT_POSITION_FOLLOWING) || shape.closest("defs, clipPath, mask"))
					continue;
				const style = getComputedStyle(shape);
				if (!this.visible(shape))
					continue;
				const point = new DOMPoint(x, y).matrixTransform(shape.getScreenCTM().inverse());
				// The stroke is painted over the fill. A thick stroke can be a cell of a heat map.
				for (const [paint, opacity, covers] of [[style.stroke, style.strokeOpacity, "isPointInStroke"], [style.fill, style.fillOpacity, "isPointInFill"]]) {
					if (paint === "none" || paint.startsWith("url") || !shape[covers](point))
						continue;
					const [r, g, b, a] = this.rgba(paint);
					layers.push([r, g, b, a * opacity * this.opacity(shape)]);
				}
			}
		for (let e = element; e; e = e.parentElement)
			layers.push(this.rgba(getComputedStyle(e).backgroundColor));
		const dark = matchMedia("(prefers-color-scheme: dark)").matches && getComputedStyle(document.documentElement).colorScheme.includes("dark");
		return layers.reduceRight((under, layer) => this.over(layer, under), dark ? [18, 18, 18] : [255, 255, 255]);
	},

	// contrast finds text with too little contrast to its background: less than 4.5, or less than 3
	// for large text (WCAG 2, success criterion 1.4.3). dark says that the page should be dark.
	contrast(dark) {
		const problems = new Map();
		const body = this.luminance(this.background(document.body, 0, 0));
		if (dark !== (body < 0.2))
			problems.set("body", `the background of the page has the luminance ${body.toFixed(2)} in ${dark ? "dark" : "light"} mode`);
		const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
		while (walker.nextNode()) {
			const element = walker.currentNode.parentElement;
			if (!walker.currentNode.data.trim() || element.closest("script, style, title, desc, option, :disabled") || !this.visible(element))
				continue;
			const range = document.createRange();
			range.selectNodeContents(walker.currentNode);
			const box = range.getBoundingClientRect();
			if (box.width <= 1 || box.height <= 1) // for screen readers alone
				continue;
			const style = getComputedStyle(element);
			const under = this.background(element, box.left + box.width / 2, box.top + box.height / 2);
			const [r, g, b, a] = this.rgba(element.closest("svg") ? style.fill : style.color);
			const colour = this.over([r, g, b, a * this.opacity(element)], under);
			const [low, high] = [this.luminance(colour), this.luminance(under)].sort((a, b) => a - b);
			const contrast = (high + 0.05) / (low + 0.05);
			const size = parseFloat(style.fontSize);
			const least = size >= 24 || size >= 18.66 && style.fontWeight >= 700 ? 3 : 4.5;
			if (contrast < least - 0.005) {
				const key = `${colour} on ${under}`;
				if (!problems.has(key))
					problems.set(key, `${this.describe(element)} has the contrast ${contrast.toFixed(2)}, less than ${least}: ` +
						`rgb(${colour.map(Math.round)}) on rgb(${under.map(Math.round)})`);
			}
		}
		return [...problems.values()];
	},

	// tables returns the numbers of columns of the tables that can be sorted.
	tables() {
		return [...document.querySelectorAll("table.sortable")].map(table => this.headers(table).length);
	},
	headers(table) {
		return [...table.tHead?.rows[0]?.cells ?? []];
	},

	// aim scrolls to a header and returns the point to click on. With focus, it focuses the header
	// or the button in it instead, and returns no point if that is impossible.
	aim(table, column, focus) {
		const header = this.headers(document.querySelectorAll("table.sortable")[table])[column];
		const target = header.querySelector("button, a[href], [tabindex]") ?? header;
		if (focus) {
			target.focus();
			return document.activeElement === target ? [0, 0] : null;
		}
		target.scrollIntoView({block: "center", inline: "center", behavior: "instant"});
		const box = target.getBoundingClientRect();
		const point = [box.left + box.width / 2, box.top + box.height / 2];
		return header.contains(document.elementFromPoint(...point)) ? point : null;
	},

	// column returns the sorting of a column: the values of its cells, whether they ascend or
	// descend, and the texts of all rows in their order.
	column(table, column) {
		table = document.querySelectorAll("table.sortable")[table];
		const rows = [...table.tBodies].flatMap(body => [...body.rows]);
		const cells = rows.map(row => row.cells[column]);
		const values = cells.map(cell => (cell.dataset.value ?? cell.textContent).trim());
		const numeric = values.every(v => v === "" || v === "NaN" || Number.isFinite(Number(v)));
		const known = values.filter(v => v !== "" && !(numeric && v === "NaN"));
		const orders = numeric ? [(a, b) => a - b] : [
			(a, b) => a < b ? -1 : a > b ? 1 : 0,
			new Intl.Collator(document.documentElement.lang || "en").compare,
			new Intl.Collator(document.documentElement.lang || "en", {numeric: true}).compare,
			new Intl.Collator(document.documentElement.lang || "en", {numeric: true, sensitivity: "base"}).compare,
		];
		const sorted = sign => orders.some(order => known.every((v, i) => i === 0 || sign * order(known[i - 1], v) <= 0));
		const header = this.headers(table)[column];
		return {
			name: header.textContent.trim(), values: values.slice(0, 8), distinct: new Set(known).size,
			ascending: sorted(1), descending: sorted(-1), announced: header.getAttribute("aria-sort") ?? "",
			// Cells without a value stand together, at the end or at the beginning.
			together: values.slice(0, known.length).every(v => known.includes(v)) || values.slice(-known.length).every(v => known.includes(v)),
			rows: rows.map(row => row.textContent).sort(),
		};
	},

	// expand opens everything that can be folded.
	expand() {
		for (const details of document.querySelectorAll("details"))
			details.open = true;
	},
})
