// What is wider than the page scrolls by the arrow keys, too.
new ResizeObserver(() => document.querySelectorAll("pre, .cell_output, .table-wrapper").forEach((box) => {
  if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
  else box.removeAttribute("tabindex");
})).observe(document.body);
// A page narrower than a picture shrinks it, and Vega wants places as on the picture that it drew.
const ratio = devicePixelRatio;
const unshrunk = (event) => {
  const { left, top, width } = event.target.getBoundingClientRect(), scale = event.target.width / ratio / width;
  const place = { clientX: left + (event.clientX - left) * scale, clientY: top + (event.clientY - top) * scale };
  for (const [name, value] of Object.entries(place)) Object.defineProperty(event, name, { value });
};
// Draws each chart in the place of its still, with its sliders; where that fails the still stays.
document.querySelectorAll("figure.chart").forEach((figure) => {
  const place = document.createElement("div");
  const spec = JSON.parse(figure.querySelector("script").textContent);
  vegaEmbed(place, spec, { actions: false, renderer: "canvas" }).then(() => {
    figure.querySelector("img").remove();
    figure.append(place);
    for (const kind of ["click", "pointermove", "mousemove", "pointerover", "mouseover", "pointerdown", "mousedown"])
      place.addEventListener(kind, (event) => event.target.matches("canvas") && unshrunk(event), true);
  });
});
