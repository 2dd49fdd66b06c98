# Spectral types of stars: the stars, fitted PSFs, classifiers, results, the improved PSF, and the audit.
STARSED = f"{RESULTS}/starsed"
STARSED_PUBLISHED = sorted(str(p) for p in Path("data/published/starsed").glob("*"))


rule starsed_stars:
    input:
        notebook="notebooks/starsed/1_stars.ipynb",
        modules=modules("notebooks/starsed/1_stars.ipynb"),
        tables="data/sky/covey2007_locus.ecsv",  # behind the stellar library
    output:
        notebook="book/starsed/1_stars.ipynb",
        field=f"{STARSED}/field_1.h5",
    params:
        parameters=parameters("starsed/1_stars"),
        partial=partial("starsed/1_stars"),
    priority: LONG
    threads: SHARE
    shell:
        EXECUTE


rule starsed_psf:
    input:
        notebook="notebooks/starsed/2_psf.ipynb",
        modules=modules("notebooks/starsed/2_psf.ipynb"),
        field=rules.starsed_stars.output.field,
        anchors="data/anchors.toml",
    output:
        notebook="book/starsed/2_psf.ipynb",
        metrics=f"{STARSED}/psf_metrics.json",
        fits=f"{STARSED}/fits.json",
    params:
        parameters=parameters("starsed/2_psf"),
        partial=partial("starsed/2_psf"),
    priority: LONG
    threads: SHARE
    shell:
        EXECUTE


rule starsed_classify:
    input:
        notebook="notebooks/starsed/3_classify.ipynb",
        modules=modules("notebooks/starsed/3_classify.ipynb"),
        field=rules.starsed_stars.output.field,
        fits=rules.starsed_psf.output.fits,
    output:
        notebook="book/starsed/3_classify.ipynb",
        metrics=f"{STARSED}/metrics.json",
        answers=f"{STARSED}/answers.parquet",
    params:
        parameters=parameters("starsed/3_classify"),
        partial=partial("starsed/3_classify"),
    priority: LONG
    threads: SHARE
    shell:
        EXECUTE


rule starsed_results:
    input:
        notebook="notebooks/starsed/4_results.ipynb",
        modules=modules("notebooks/starsed/4_results.ipynb"),
        metrics=rules.starsed_classify.output.metrics,
        psf_metrics=rules.starsed_psf.output.metrics,
        anchors="data/anchors.toml",
        published=STARSED_PUBLISHED,
    output:
        notebook="book/starsed/4_results.ipynb",
    params:
        parameters=parameters("starsed/4_results"),
        partial=partial("starsed/4_results"),
    shell:
        EXECUTE


rule starsed_improve:
    input:
        notebook="notebooks/starsed/5_improve.ipynb",
        modules=modules("notebooks/starsed/5_improve.ipynb"),
        field=rules.starsed_stars.output.field,
        fits=rules.starsed_psf.output.fits,
        anchors="data/anchors.toml",
        published=STARSED_PUBLISHED,
    output:
        notebook="book/starsed/5_improve.ipynb",
        metrics=f"{STARSED}/improve.json",
    params:
        parameters=parameters("starsed/5_improve"),
        partial=partial("starsed/5_improve"),
    priority: LONG
    threads: SHARE
    shell:
        EXECUTE


rule starsed_audit:
    input:
        notebook="notebooks/starsed/6_audit.ipynb",
        modules=modules("notebooks/starsed/6_audit.ipynb"),
        tables="data/sky/covey2007_locus.ecsv",
        published=STARSED_PUBLISHED,
    output:
        notebook="book/starsed/6_audit.ipynb",
        metrics=f"{STARSED}/audit/metrics.json",
    params:
        parameters=parameters("starsed/6_audit"),
        partial=partial("starsed/6_audit"),
    threads: SHARE
    shell:
        EXECUTE


rule starsed_own_stars:
    input:
        notebook="notebooks/starsed/7_own_stars.ipynb",
        modules=modules("notebooks/starsed/7_own_stars.ipynb"),
        field=rules.starsed_stars.output.field,
    output:
        notebook="book/starsed/7_own_stars.ipynb",
        types=f"{STARSED}/own_types.csv",
    params:
        parameters=parameters("starsed/7_own_stars"),
        partial=partial("starsed/7_own_stars"),
    shell:
        EXECUTE
