// Draws the saved Plotly figures of a page, each when it comes near the window. Served with the site; nothing is loaded from elsewhere.
(() => {
  const draw = (box) => {
    const saved = document.querySelector(`script[data-figure="${box.id}"]`);
    if (!saved || box.dataset.drawn) return;
    box.dataset.drawn = "yes";
    const { data, layout } = JSON.parse(saved.textContent);
    Plotly.newPlot(box, data, { ...layout, autosize: true }, { responsive: true, displaylogo: false });
  };
  const boxes = [...document.querySelectorAll(".plotly-figure")];
  if (!("IntersectionObserver" in window)) return boxes.forEach(draw);
  const seen = new IntersectionObserver((entries) => {
    for (const e of entries) if (e.isIntersecting) { seen.unobserve(e.target); draw(e.target); }
  }, { rootMargin: "600px" });
  boxes.forEach((b) => seen.observe(b));
})();
