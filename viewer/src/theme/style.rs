use std::sync::Arc;

use egui::epaint::Shadow;
use egui::style::{ScrollStyle, WidgetVisuals};
use egui::{
    Color32, CornerRadius, FontData, FontDefinitions, FontFamily, FontId, Margin, Stroke, Style,
    TextStyle, Vec2, Visuals,
};

use super::Theme;

/// The family of headings and of what stands out.
pub const STRONG: &str = "strong";

/// Gives the context the program's fonts.
pub fn install_fonts(context: &egui::Context) {
    let mut fonts = FontDefinitions::default();
    let inter = [
        (
            "Inter",
            include_bytes!("../../assets/fonts/Inter-Regular.otf").as_slice(),
        ),
        (
            "Inter SemiBold",
            include_bytes!("../../assets/fonts/Inter-SemiBold.otf").as_slice(),
        ),
    ];
    for (name, bytes) in inter {
        fonts
            .font_data
            .insert(name.to_owned(), Arc::new(FontData::from_static(bytes)));
    }
    let rest = fonts.families.entry(FontFamily::Proportional).or_default();
    let mut strong = vec!["Inter SemiBold".to_owned()];
    strong.extend(rest.iter().cloned());
    rest.insert(0, "Inter".to_owned());
    fonts
        .families
        .insert(FontFamily::Name(STRONG.into()), strong);
    context.set_fonts(fonts);
}

/// Makes the context look like the theme.
pub fn apply(context: &egui::Context, theme: &Theme) {
    let kind = if theme.dark {
        egui::Theme::Dark
    } else {
        egui::Theme::Light
    };
    context.set_theme(kind);
    context.set_style_of(kind, style(theme));
}

fn style(theme: &Theme) -> Style {
    let mut style = Style {
        visuals: visuals(theme),
        animation_time: 0.08,
        ..Style::default()
    };
    let strong = FontFamily::Name(STRONG.into());
    style.text_styles = [
        (
            TextStyle::Small,
            FontId::new(10.5, FontFamily::Proportional),
        ),
        (TextStyle::Body, FontId::new(12.5, FontFamily::Proportional)),
        (
            TextStyle::Button,
            FontId::new(12.5, FontFamily::Proportional),
        ),
        (TextStyle::Heading, FontId::new(15.0, strong)),
        (
            TextStyle::Monospace,
            FontId::new(12.0, FontFamily::Monospace),
        ),
    ]
    .into();
    let spacing = &mut style.spacing;
    spacing.item_spacing = Vec2::new(6.0, 5.0);
    spacing.button_padding = Vec2::new(8.0, 3.0);
    spacing.menu_margin = Margin::same(6);
    spacing.window_margin = Margin::same(10);
    spacing.interact_size.y = 22.0;
    spacing.slider_width = 120.0;
    spacing.combo_width = 80.0;
    spacing.icon_width = 14.0;
    spacing.icon_width_inner = 8.0;
    spacing.tooltip_width = 420.0;
    spacing.scroll = ScrollStyle {
        bar_width: 8.0,
        ..ScrollStyle::thin()
    };
    style.interaction.tooltip_delay = 0.25;
    style.interaction.selectable_labels = false;
    style
}

fn visuals(theme: &Theme) -> Visuals {
    let surface = &theme.surface;
    let mut visuals = if theme.dark {
        Visuals::dark()
    } else {
        Visuals::light()
    };
    let widget = |fill: Color32, stroke: Stroke, text: Color32| WidgetVisuals {
        bg_fill: fill,
        weak_bg_fill: fill,
        bg_stroke: stroke,
        corner_radius: CornerRadius::same(5),
        fg_stroke: Stroke::new(1.0, text),
        expansion: 0.0,
    };
    let border = Stroke::new(1.0, surface.border.0);
    visuals.widgets.noninteractive = widget(surface.panel.0, border, theme.text.normal.0);
    visuals.widgets.inactive = widget(surface.raised.0, border, theme.text.normal.0);
    visuals.widgets.hovered = widget(
        surface.hover.0,
        Stroke::new(1.0, theme.text.weak.0),
        theme.text.strong.0,
    );
    visuals.widgets.active = widget(
        surface.selected.0,
        Stroke::new(1.0, theme.state.accent.0),
        theme.text.strong.0,
    );
    visuals.widgets.open = widget(surface.hover.0, border, theme.text.strong.0);
    visuals.selection.bg_fill = surface.selected.0;
    visuals.selection.stroke = Stroke::new(
        1.0,
        if theme.dark {
            theme.text.strong.0
        } else {
            theme.state.accent.0
        },
    );
    visuals.hyperlink_color = theme.state.accent.0;
    visuals.faint_bg_color = super::mix(surface.panel.0, surface.raised.0, 0.6);
    visuals.extreme_bg_color = theme.plot.background.0;
    visuals.text_edit_bg_color = Some(surface.raised.0);
    visuals.code_bg_color = surface.raised.0;
    visuals.warn_fg_color = theme.state.warn.0;
    visuals.error_fg_color = theme.state.bad.0;
    visuals.weak_text_color = Some(theme.text.weak.0);
    visuals.panel_fill = surface.panel.0;
    visuals.window_fill = surface.overlay.0;
    visuals.window_stroke = border;
    visuals.window_corner_radius = CornerRadius::same(10);
    visuals.menu_corner_radius = CornerRadius::same(8);
    // A light ground takes its shadow from the text's colour, thinned.
    let shade = if theme.dark {
        surface.background.0.gamma_multiply(0.9)
    } else {
        theme.text.strong.0.gamma_multiply(0.18)
    };
    let shadow = Shadow {
        offset: [0, 6],
        blur: 24,
        spread: 0,
        color: shade,
    };
    visuals.window_shadow = shadow;
    visuals.popup_shadow = shadow;
    visuals.striped = false;
    visuals.indent_has_left_vline = false;
    visuals.slider_trailing_fill = true;
    visuals
}
