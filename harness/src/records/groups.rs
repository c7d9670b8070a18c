//! C-Eval's groups of subjects (Huang et al. 2023, "C-Eval: A Multi-Level Multi-Discipline Chinese Evaluation Suite for
//! Foundation Models"), as in `subject_mapping.json` of its repository, github.com/hkust-nlp/ceval; some versions of that file
//! lack `clinical_medicine`.

/// The groups with their subjects.
const GROUPS: [(&str, &[&str]); 4] = [
    (
        "STEM",
        &[
            "advanced_mathematics",
            "college_chemistry",
            "college_physics",
            "college_programming",
            "computer_architecture",
            "computer_network",
            "discrete_mathematics",
            "electrical_engineer",
            "high_school_biology",
            "high_school_chemistry",
            "high_school_mathematics",
            "high_school_physics",
            "metrology_engineer",
            "middle_school_biology",
            "middle_school_chemistry",
            "middle_school_mathematics",
            "middle_school_physics",
            "operating_system",
            "probability_and_statistics",
            "veterinary_medicine",
        ],
    ),
    (
        "social science",
        &[
            "business_administration",
            "college_economics",
            "education_science",
            "high_school_geography",
            "high_school_politics",
            "mao_zedong_thought",
            "marxism",
            "middle_school_geography",
            "middle_school_politics",
            "teacher_qualification",
        ],
    ),
    (
        "humanities",
        &[
            "art_studies",
            "chinese_language_and_literature",
            "high_school_chinese",
            "high_school_history",
            "ideological_and_moral_cultivation",
            "law",
            "legal_professional",
            "logic",
            "middle_school_history",
            "modern_chinese_history",
            "professional_tour_guide",
        ],
    ),
    (
        "other",
        &[
            "accountant",
            "basic_medicine",
            "civil_servant",
            "clinical_medicine",
            "environmental_impact_assessment_engineer",
            "fire_engineer",
            "physician",
            "plant_protection",
            "sports_science",
            "tax_accountant",
            "urban_and_rural_planner",
        ],
    ),
];

/// The group of a subject of C-Eval; `None` for other subjects.
pub fn group_of(subject: &str) -> Option<&'static str> {
    GROUPS.iter().find(|(_, subjects)| subjects.contains(&subject)).map(|(group, _)| *group)
}

/// The groups, in C-Eval's order.
pub fn groups() -> impl Iterator<Item = &'static str> {
    GROUPS.iter().map(|(group, _)| *group)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::shared;
    use std::collections::BTreeSet;

    #[test]
    fn every_subject_of_c_eval_has_one_group() {
        let all: BTreeSet<&str> = GROUPS.iter().flat_map(|(_, subjects)| *subjects).copied().collect();
        assert_eq!(GROUPS.map(|(_, subjects)| subjects.len()), [20, 10, 11, 11]);
        assert_eq!(all.len(), 52);
        assert_eq!((group_of("law"), group_of("gardening")), (Some("humanities"), None));
        let Some(dir) = shared("data/ceval/val") else { return };
        let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
        let subjects: BTreeSet<String> =
            names.filter_map(|name| name.strip_suffix("_val.csv").map(String::from)).collect();
        assert_eq!(subjects.iter().map(String::as_str).collect::<BTreeSet<_>>(), all);
    }
}
