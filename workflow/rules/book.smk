# The book: generated pages (scoreboard, status, downloads), then HTML.
NOTEBOOKS = [
    rules.photoz_data.output.notebook,
    rules.photoz_train.output.notebook,
    rules.photoz_results.output.notebook,
    rules.photoz_predict.output.notebook,
    rules.photoz_images.output.notebook,
    rules.margformer_sets.output.notebook,
    rules.margformer_train.output.notebook,
    rules.margformer_results.output.notebook,
    rules.margformer_audit.output.notebook,
    rules.margformer_shift.output.notebook,
    rules.margformer_conformal.output.notebook,
    rules.starsed_stars.output.notebook,
    rules.starsed_psf.output.notebook,
    rules.starsed_classify.output.notebook,
    rules.starsed_results.output.notebook,
    rules.starsed_improve.output.notebook,
    rules.starsed_audit.output.notebook,
    rules.starsed_own_stars.output.notebook,
    rules.kcorrection_galaxies.output.notebook,
    rules.kcorrection_embedding.output.notebook,
    rules.kcorrection_train.output.notebook,
    rules.kcorrection_results.output.notebook,
    rules.kcorrection_real.output.notebook,
    rules.kcorrection_audit.output.notebook,
    rules.kcorrection_own.output.notebook,
    rules.astra_galaxies.output.notebook,
    rules.astra_train.output.notebook,
    rules.astra_results.output.notebook,
    rules.astra_audit.output.notebook,
    rules.astra_real.output.notebook,
    rules.astra_own.output.notebook,
    rules.sky_samples.output.notebook,
    rules.sky_fidelity.output.notebook,
    rules.sky_real_pixels.output.notebook,
]


rule pages:
    input:
        notebooks=NOTEBOOKS,
        modules=modules("astro_utils/pages.py") + ["astro_utils/pages.py"],
        scoreboard="book/scoreboard.toml",
        published=sorted(str(p) for p in Path("data/published").glob("*/*.json")),
    output:
        pages=expand(
            "book/_generated/{page}.md",
            page=["scoreboard", "status", "downloads", "bench", "bench_training", "bench_psf"],
        ),
    params:
        profile=PROFILE,
    shell:
        "python -m astro_utils.pages --profile {params.profile} --out book/_generated"


rule book:
    input:
        notebooks=NOTEBOOKS,
        generated=rules.pages.output.pages,
        config="_config.yml",
        sources=sorted(
            str(p)
            for pattern in ("*.md", "*/*.md", "*.bib", "_toc.yml", "_static/*")
            for p in Path("book").glob(pattern)
            if "_generated" not in p.parts
        ),
        cards="data/README.md",
    output:
        "_build/html/index.html",
    # -n and -W: a broken reference is an error; --all: pages of another profile do not linger.
    shell:
        "jupyter-book build book --config _config.yml --all -W -n --keep-going --quiet"
