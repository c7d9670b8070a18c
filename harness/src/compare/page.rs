//! A comparison as a self-contained HTML page, in English and Chinese.

use super::show::percent;
use super::{Comparison, Finish};
use crate::models::Form;
use crate::report::Grid;
use crate::track::number;
use anyhow::{Context, Result};
use minijinja::{Environment, context};

impl Comparison {
    pub(super) fn html(&self) -> Result<String> {
        let models: Vec<_> = self
            .models
            .iter()
            .map(|model| {
                let params = number(model.params as u64);
                let is_continuation = model.form == Form::Continuation;
                context! { letter => model.letter, name => model.name, source => model.source, stage => model.stage, params, is_continuation }
            })
            .collect();
        let prompts: Vec<_> = self
            .prompts
            .iter()
            .map(|asked| {
                let answers = asked.answers.iter().zip(&models).map(|(answer, model)| {
                    let score = answer.score.map(|score| format!("{:.0}", 100.0 * score));
                    let is_cut = answer.finish_reason == Finish::Length;
                    context! { model, text => answer.text, tokens => answer.tokens, is_cut, score }
                });
                context! { prompt => asked.prompt, answers => answers.collect::<Vec<_>>() }
            })
            .collect();
        let judge = self.judge.as_ref().map(|judged| {
            let problems: Vec<_> = judged.first_problems().map(|(text, count)| context! { text, count }).collect();
            context! {
                name => judged.judge, planned => judged.planned, valid => judged.valid,
                unreadable => judged.unreadable, failed => judged.failed, not_asked => judged.not_asked, problems,
                in_both => judged.pairs_in_both_orders, has_pairs => judged.pairs_in_both_orders > 0,
                agreement => percent(judged.agreement), first => percent(judged.first_wins),
                rates => cells(self.rates_grid(judged)), pairs => cells(self.pairs_grid(judged)),
            }
        });
        let mut environment = Environment::new();
        environment.add_template("page.html", include_str!("page.html")).context("the page's template")?;
        let page = environment.get_template("page.html")?;
        let (settings, rows) = (self.settings(), cells(self.models_grid()));
        page.render(context! { prompts, judge, settings, rows }).context("the page")
    }
}

fn cells(grid: Grid) -> Vec<Vec<String>> {
    grid.rows.into_iter().map(|row| row.into_iter().map(|cell| cell.text).collect()).collect()
}
