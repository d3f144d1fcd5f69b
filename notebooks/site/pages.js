// What is wider than the page scrolls by the arrow keys, too.
new ResizeObserver(() => document.querySelectorAll("pre, .cell_output, .table-wrapper").forEach((box) => {
  if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
  else box.removeAttribute("tabindex");
})).observe(document.body);
// Draws each chart in the place of its still, with its sliders; where that fails the still stays.
document.querySelectorAll("figure.chart").forEach((figure) => {
  const place = document.createElement("div");
  const spec = JSON.parse(figure.querySelector("script").textContent);
  vegaEmbed(place, spec, { actions: false, renderer: "canvas" }).then(() => {
    figure.querySelector("img").remove();
    figure.append(place);
  });
});
