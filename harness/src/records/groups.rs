//! C-Eval's groups of subjects (Huang et al. 2023, "C-Eval: A Multi-Level Multi-Discipline Chinese Evaluation Suite for
//! Foundation Models"), as in `subject_mapping.json` of its repository, github.com/hkust-nlp/ceval; some versions of that file
//! lack `clinical_medicine`.

/// The groups with their subjects, each with its Chinese name.
const GROUPS: [(&str, &[(&str, &str)]); 4] = [
    (
        "STEM",
        &[
            ("advanced_mathematics", "高等数学"),
            ("college_chemistry", "大学化学"),
            ("college_physics", "大学物理"),
            ("college_programming", "大学编程"),
            ("computer_architecture", "计算机组成"),
            ("computer_network", "计算机网络"),
            ("discrete_mathematics", "离散数学"),
            ("electrical_engineer", "注册电气工程师"),
            ("high_school_biology", "高中生物"),
            ("high_school_chemistry", "高中化学"),
            ("high_school_mathematics", "高中数学"),
            ("high_school_physics", "高中物理"),
            ("metrology_engineer", "注册计量师"),
            ("middle_school_biology", "初中生物"),
            ("middle_school_chemistry", "初中化学"),
            ("middle_school_mathematics", "初中数学"),
            ("middle_school_physics", "初中物理"),
            ("operating_system", "操作系统"),
            ("probability_and_statistics", "概率统计"),
            ("veterinary_medicine", "兽医学"),
        ],
    ),
    (
        "social science",
        &[
            ("business_administration", "工商管理"),
            ("college_economics", "大学经济学"),
            ("education_science", "教育学"),
            ("high_school_geography", "高中地理"),
            ("high_school_politics", "高中政治"),
            ("mao_zedong_thought", "毛泽东思想和中国特色社会主义理论体系概论"),
            ("marxism", "马克思主义基本原理"),
            ("middle_school_geography", "初中地理"),
            ("middle_school_politics", "初中政治"),
            ("teacher_qualification", "教师资格"),
        ],
    ),
    (
        "humanities",
        &[
            ("art_studies", "艺术学"),
            ("chinese_language_and_literature", "中国语言文学"),
            ("high_school_chinese", "高中语文"),
            ("high_school_history", "高中历史"),
            ("ideological_and_moral_cultivation", "思想道德修养与法律基础"),
            ("law", "法学"),
            ("legal_professional", "法律职业资格"),
            ("logic", "逻辑学"),
            ("middle_school_history", "初中历史"),
            ("modern_chinese_history", "近代史纲要"),
            ("professional_tour_guide", "导游资格"),
        ],
    ),
    (
        "other",
        &[
            ("accountant", "注册会计师"),
            ("basic_medicine", "基础医学"),
            ("civil_servant", "公务员"),
            ("clinical_medicine", "临床医学"),
            ("environmental_impact_assessment_engineer", "环境影响评价工程师"),
            ("fire_engineer", "注册消防工程师"),
            ("physician", "医师资格"),
            ("plant_protection", "植物保护"),
            ("sports_science", "体育学"),
            ("tax_accountant", "税务师"),
            ("urban_and_rural_planner", "注册城乡规划师"),
        ],
    ),
];

/// The group of a subject of C-Eval; `None` for other subjects.
pub fn group_of(subject: &str) -> Option<&'static str> {
    find(subject).map(|(group, _)| group)
}

/// The Chinese name of a subject of C-Eval; `None` for other subjects.
pub fn chinese_name_of(subject: &str) -> Option<&'static str> {
    find(subject).map(|(_, name)| name)
}

/// The group and the Chinese name of a subject.
fn find(subject: &str) -> Option<(&'static str, &'static str)> {
    let named = |(group, subjects): &(&'static str, &'static [(&'static str, &'static str)])| {
        let found = subjects.iter().find(|(name, _)| *name == subject);
        found.map(|(_, chinese)| (*group, *chinese))
    };
    GROUPS.iter().find_map(named)
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
        let all: BTreeSet<&str> =
            GROUPS.iter().flat_map(|(_, subjects)| *subjects).map(|(name, _)| *name).collect();
        assert_eq!(GROUPS.map(|(_, subjects)| subjects.len()), [20, 10, 11, 11]);
        assert_eq!(all.len(), 52);
        assert_eq!((group_of("law"), group_of("gardening")), (Some("humanities"), None));
        assert_eq!((chinese_name_of("law"), chinese_name_of("gardening")), (Some("法学"), None));
        let Some(dir) = shared("data/ceval/val") else { return };
        let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
        let subjects: BTreeSet<String> =
            names.filter_map(|name| name.strip_suffix("_val.csv").map(String::from)).collect();
        assert_eq!(subjects.iter().map(String::as_str).collect::<BTreeSet<_>>(), all);
    }
}
