// Draws each chart in the place of its still, with its sliders; where that fails the still stays.
document.querySelectorAll("figure.chart").forEach((figure) => {
  const place = document.createElement("div");
  const spec = JSON.parse(figure.querySelector("script").textContent);
  vegaEmbed(place, spec, { actions: false, renderer: "canvas" }).then(() => {
    figure.querySelector("img").remove();
    figure.append(place);
  });
});
